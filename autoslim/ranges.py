"""Ranges of integer activations: four ways to find one from what a tensor held during calibration."""

import contextlib
import io
from collections.abc import Callable

import numpy as np

#: values per tensor that a range is found from, and levels of an unsigned byte
VALUES, LEVELS = 1 << 16, 255
#: bins of the histogram of the entropy method
BINS = 512
PERCENTILES = (99.99, 99.9)
SHRINKS = np.linspace(1.0, 0.2, 17)
Range = tuple[float, float]


def scale_of(low: float, high: float) -> tuple[float, int]:
    """(step, zero point) of an unsigned byte over a range that is widened to hold 0 (Jacob et al. 2018,
    https://arxiv.org/abs/1712.05877, eq. 1)."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / LEVELS, 1e-12)
    return float(np.float32(step)), int(np.clip(round(-low / step), 0, LEVELS))


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as an unsigned byte would give them back."""
    step, zero = scale_of(low, high)
    return (np.clip(np.rint(values / step) + zero, 0, LEVELS) - zero).astype(np.float32) * np.float32(step)


def minmax(values: np.ndarray, low: float, high: float) -> list[Range]:
    """Everything that was seen."""
    return [(low, high)]


def percentile(values: np.ndarray, low: float, high: float) -> list[Range]:
    """Ranges that leave a share of the values outside on each side (McKinstry et al. 2018, https://arxiv.org/abs/1809.04191)."""
    return [tuple(np.quantile(values, [1 - share / 100, share / 100]).tolist()) for share in PERCENTILES]


def mse(values: np.ndarray, low: float, high: float) -> list[Range]:
    """The shrunk range with the least mean squared error of the tensor itself (Banner et al. 2019,
    https://arxiv.org/abs/1810.05723, by search instead of a fitted distribution)."""
    tried = [(low * share, high * share) for share in SHRINKS] + [(low, high * share) for share in SHRINKS]
    return [min(tried, key=lambda pair: float(np.square(rounded(values, *pair) - values).mean()))]


def entropy(values: np.ndarray, low: float, high: float) -> list[Range]:
    """The range whose quantised histogram diverges least from the original (Migacz 2017, "8-bit inference with TensorRT"), by
    ONNX Runtime's own collector."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector("entropy", False, BINS, 128, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": [values]})
        low, high = collector.compute_entropy()["x"][:2]
    return [(float(low), float(high))]


METHODS: dict[str, Callable[[np.ndarray, float, float], list[Range]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def candidates(method: str, values: np.ndarray, low: float, high: float) -> list[Range]:
    """The ranges to choose from; those of all methods where the choice is to be measured."""
    if not np.isfinite(values).all() or high <= low:
        return [(low, high)]
    names = METHODS if method == "measured" else (method,)
    return [pair for name in names for pair in METHODS[name](values, low, high)]
