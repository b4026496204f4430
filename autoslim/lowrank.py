"""How large a rank should be, and what a layer reads: the mathematics behind techniques/rank.py."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim.hooks import watched
from autoslim.inputs import Inputs
from autoslim.layers import stepwise

#: rows of one layer that take part per batch, the widest matrix that is kept whole, and the ridge as a share of its mean diagonal
ROWS, WIDEST, RIDGE = 8192, 4096, 1e-6


def energy_rank(values: Tensor, share: float) -> int:
    """The smallest rank whose singular values (descending) hold ``share`` of the sum of squares."""
    held = values.double().square().cumsum(0)
    return int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1


def evbmf_rank(matrix: Tensor) -> int:
    """The rank that empirical variational Bayes gives a matrix with noise of unknown variance: the global analytic solution of
    Nakajima et al. 2013 (https://jmlr.org/papers/v14/nakajima13a.html), with the bounds on the variance and the approximation of the
    threshold that its authors' own program uses."""
    from scipy.optimize import minimize_scalar

    short, long = sorted(matrix.shape)
    squares = torch.linalg.svdvals(matrix.double()).square()
    alpha = short / long
    tau_least = 2.5129 * math.sqrt(alpha)  # approximates the root that decides where a component is worth keeping
    x_least = (1 + tau_least) * (1 + alpha / tau_least)
    most = min(math.ceil(short / (1 + alpha)) - 1, short) - 1  # no more components than this
    if most < 0 or float(squares.sum()) == 0:
        return 0
    upper = float(squares.sum()) / (short * long)
    lower = max(float(squares[most + 1]) / (long * x_least), float(squares[most + 1 :].mean()) / long)
    if not 0 < lower < upper:
        return 0 if lower >= upper else len(squares)

    def energy(variance: float) -> float:
        """The free energy up to constants, as a function of the noise's variance."""
        x = squares / (long * variance)
        large, small = x[x > x_least], x[x <= x_least]
        tau = 0.5 * (large - (1 + alpha) + ((large - (1 + alpha)).square() - 4 * alpha).clamp_min(0).sqrt())
        noise = (small - small.clamp_min(1e-300).log()).sum()
        return float(noise + (large - tau).sum() + ((tau + 1) / large).log().sum() + alpha * (tau / alpha + 1).log().sum())

    best = float(minimize_scalar(energy, bounds=(lower, upper), method="bounded").x)
    return int((squares > long * best * x_least).sum())


def grams(model: nn.Module, names: Collection[str], samples: Sequence[Inputs]) -> dict[str, Tensor]:
    """{layer: mean of x x^T over what it reads, (n, n) float64}, n = inputs times kernel; (n,), the diagonal, for layers that read
    more than WIDEST numbers. Layers that are not called on ``samples`` are missing."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            rows = read_by(module, args[0].detach())
            rows = rows[:: max(1, len(rows) // ROWS)].double()
            part = rows.t() @ rows if rows.shape[1] <= WIDEST else rows.square().sum(0)
            sums[name] = sums[name] + part if name in sums else part
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    with stepwise():
        watched(model, samples, [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names])
    return {name: total / counts[name] for name, total in sums.items()}


def read_by(module: nn.Module, x: Tensor) -> Tensor:
    """(rows, inputs * kernel): what a linear layer or a two-dimensional convolution multiplies its weight with."""
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if isinstance(module.padding, str):
        sides = [n for size, step in zip(module.kernel_size[::-1], module.dilation[::-1], strict=True) for n in around(module, size, step)]
        x, padding = F.pad(x, sides), 0
    else:
        padding = module.padding
    columns = F.unfold(x, module.kernel_size, module.dilation, padding, module.stride)
    return columns.transpose(1, 2).flatten(0, 1)


def around(module: nn.Module, size: int, step: int) -> tuple[int, int]:
    """Padding before and after for ``padding="same"`` or ``"valid"``."""
    total = step * (size - 1) if module.padding == "same" else 0
    return total // 2, total - total // 2


def whitener(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(S, its inverse) with S S^T = gram plus a small ridge; diagonal matrices for a diagonal (Wang et al. 2025, SVD-LLM,
    https://arxiv.org/abs/2403.07378, section 3.1: the singular values of W S are what cutting them costs in the outputs)."""
    if gram.dim() == 1:
        root = (gram + RIDGE * gram.mean().clamp_min(1e-12)).sqrt()
        return torch.diag(root), torch.diag(1 / root)
    damped = gram + RIDGE * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype)
    factor = torch.linalg.cholesky(damped)
    return factor, torch.linalg.solve_triangular(factor, torch.eye(len(gram), dtype=gram.dtype), upper=False)
