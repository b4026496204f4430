"""Sparsity: set weights of a layer to zero, anywhere or in patterns.

Value: the share of a layer's weights that become zero, in [0, 1), or a mapping of

- ``share``: as above; with ``scope: global`` the share over all layers with the same value, the lowest scores go wherever they are;
- ``threshold`` instead of a share: weights whose absolute value is below it become zero (criterion magnitude);
- ``criterion``: a file of criteria/: magnitude, wanda, obs (second-order, with update of the weights that stay); the matrices of a recurrent
  layer, each for itself, go by magnitude;
- ``pattern``: "N:M" such as "2:4" (N of every M inputs stay) or "RxC" such as "4x1" (blocks of R outputs by C inputs go whole).

Zeros stay zero through recovery. They make a file neither smaller nor faster by themselves in the runtimes here, but `autoslim pack`
stores them small; parameters stay counted, zeros included.
"""

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import plugins, readings
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Choose, Unit
from autoslim.layers import CELLS, RECURRENT
from autoslim.structure import Structure
from autoslim.techniques import _patterns as patterns

KEYS = ("share", "threshold", "criterion", "pattern", "scope")
DEFAULTS = {"criterion": "magnitude", "pattern": "", "scope": "layer"}
ALLOWED = (
    "a share of zeros from 0 up to below 1, a pattern such as '2:4', or a mapping of share or threshold (above 0), "
    "criterion ({criteria}), pattern ('2:4' or '4x1'), scope (layer or global)"
)


class Member:
    """Sparse weights; see the module."""

    order = 50
    by_weights = True
    values = (0.0, 0.5, 0.75, 0.9)

    def __init__(self, criterion: str = "magnitude", pattern: str = "", scope: str = "layer") -> None:
        self.told = {"criterion": criterion, "pattern": pattern, "scope": scope}
        for key, value in self.told.items():
            if not valid(key, value):
                raise UserError(f"sparsity: {key} is {value!r}, allowed: {allowed()}")

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution, linear or recurrent layer."""
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if treated(layer.kind)}

    def effective(self, unit: Unit, value: Any) -> float | dict[str, Any] | None:
        """The share, or a mapping of what is no default; None for no zeros. Raises UserError."""
        told = dict(value) if isinstance(value, Mapping) else {"pattern" if isinstance(value, str) else "share": value}
        full = complete(self.told | told)
        if full is None:
            raise UserError(f"sparsity of {unit.name}: got {value!r}, allowed: {allowed()}")
        if full.get("share") == 0:
            return None
        short = {key: part for key, part in full.items() if part != DEFAULTS.get(key) or self.told.get(key, part) != part}
        return short["share"] if set(short) == {"share"} else dict(sorted(short.items()))

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Prune in the order of execution, each layer on what it then reads where its criterion looks at inputs; zeros are promised."""
        plans = {name: complete(DEFAULTS | (value if isinstance(value, Mapping) else {"share": value})) for name, value in choices.items()}
        layers = {full: (module, plan) for name, plan in plans.items() for full, module in treatable(draft, name, plan)}
        reading = [name for name, (_, plan) in layers.items() if criterion_of(plan).reads_inputs]
        shares = shares_of(draft, {name: pair for name, pair in layers.items() if pair[1]["scope"] == "global"})
        done: set[str] = set()

        def act(name: str, module: nn.Module, inputs: Tensor | None) -> None:
            done.add(name)
            plan = layers[name][1] | ({"share": shares[name]} if name in shares else {})
            prune(draft, name, module, inputs, plan)

        if reading:
            readings.visit(draft.model, reading, draft.samples, act)
        for name, (module, plan) in layers.items():
            if name not in done:
                if name in reading:
                    draft.notes.append(f"sparsity: {name} by magnitude, what it reads cannot be told for {plan['criterion']}")
                    layers[name] = module, plan | {"criterion": "magnitude"}
                act(name, module, None)


def treated(kind: str) -> bool:
    return "Conv" in kind or "Linear" in kind or kind in (one.__name__ for one in (*RECURRENT, *CELLS))


def valid(key: str, value: Any) -> bool:
    """Whether a value is allowed for a key."""
    if key == "criterion":
        return value in plugins.names("criteria")
    if key == "pattern":
        return value == "" or isinstance(value, str) and patterns.parse(value) is not None
    if key == "scope":
        return value in ("layer", "global")
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return good and (0 <= value < 1 if key == "share" else key == "threshold" and value > 0)


def complete(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """All keys of a value, a pattern's own share filled in; None for what is not allowed together."""
    full = dict(told)
    if not all(valid(key, value) for key, value in full.items()):
        return None
    kind, kept, of = (patterns.parse(full["pattern"]) if full["pattern"] else None) or ("", 0, 0)
    if kind == ":":
        own = 1 - kept / of
        if full.setdefault("share", own) == 0:
            full["pattern"] = ""
        if full["share"] not in (0, own) or "threshold" in full or full["scope"] == "global":
            return None
        return full
    if ("share" in full) == ("threshold" in full) or full["scope"] == "global" and (kind or "threshold" in full):
        return None
    if "threshold" in full and (kind or full["criterion"] != "magnitude"):
        return None
    for key in ("share", "threshold"):
        if key in full:
            full[key] = float(full[key])
    return full


def allowed() -> str:
    return ALLOWED.format(criteria=", ".join(plugins.names("criteria")))


def criterion_of(plan: Mapping[str, Any]) -> Any:
    return plugins.load("criteria", plan["criterion"])


def choice_of(plan: Mapping[str, Any]) -> Choose:
    """How a plan turns scores into what is kept."""
    if "threshold" in plan:
        return patterns.Above(plan["threshold"])
    kind, first, second = (patterns.parse(plan["pattern"]) if plan["pattern"] else None) or ("", 0, 0)
    if kind == ":":
        return patterns.Few(first, second)
    if kind == "x":
        return patterns.Blocks(plan["share"], first, second)
    return patterns.Anywhere(plan["share"], criterion_of(plan).per_row)


def treatable(draft: Draft, name: str, plan: Mapping[str, Any]) -> list[tuple[str, nn.Module]]:
    """(full name, module) of the layers that stand where ``name`` stood and take the plan's pattern; notes for the others."""
    found = []
    choose = choice_of(plan)
    for full, module in (*draft.parts(name), *matrices(draft, name)):
        outputs, inputs = module.weight.shape[:2] if module.weight.dim() > 1 else (0, 0)
        groups = getattr(module, "groups", 1)
        if hasattr(choose, "fits") and (getattr(module, "transposed", False) or not choose.fits(outputs // groups, inputs)):
            draft.notes.append(
                f"sparsity: {full} left whole, {outputs // groups} outputs by {inputs} inputs do not fit pattern {plan['pattern']}"
            )
        else:
            found.append((full, module))
    return found


def matrices(draft: Draft, name: str) -> Iterator[tuple[str, Any]]:
    """(name, what has it as ``weight``) of the matrices of a recurrent layer."""
    layer = draft.model.get_submodule(name) if draft.has(name) else None
    if isinstance(layer, (*RECURRENT, *CELLS)):
        for own, value in layer.named_parameters(recurse=False):
            if own.startswith("weight"):
                yield f"{name}.{own}", SimpleNamespace(weight=value)


def prune(draft: Draft, name: str, module: nn.Module, inputs: Tensor | None, plan: Mapping[str, Any]) -> None:
    """Set weights of one layer to zero and remember where; zeros of an earlier step stay."""
    criterion, choose = criterion_of(plan), choice_of(plan)
    before = readings.as_matrices(module)
    order = by_kernel(module)
    made, masks = torch.empty_like(before), torch.empty_like(before)
    whole = len(before) > 1 and inputs is None and isinstance(choose, patterns.Anywhere) and not choose.per_row
    for group, matrix in enumerate([before.flatten(0, 1)] if whole else before):
        read = None if inputs is None else inputs[:, group, order]
        weight, kept = criterion.prune(matrix[:, order], read, choose)
        target = slice(None) if whole else group
        shape = before[target].shape
        made[target][..., order] = weight.reshape(shape)
        masks[target][..., order] = kept.to(masks.dtype).reshape(shape)
    mask = masks.view_as(module.weight) * draft.masks.get(name, torch.ones(()))
    module.weight.data.copy_(made.view_as(module.weight) * mask + 0.0)  # no negative zeros
    draft.masks[name] = mask


def by_kernel(module: nn.Module) -> Tensor:
    """The order of a flattened weight's columns in which a kernel position's inputs are neighbours, as patterns want them."""
    inputs = module.weight.shape[1]
    return torch.arange(module.weight[0].numel()).view(inputs, -1).t().reshape(-1)


def shares_of(draft: Draft, layers: Mapping[str, tuple[nn.Module, Mapping[str, Any]]]) -> dict[str, float]:
    """{layer: its share of zeros} such that, over all layers with the same plan, the lowest scores go."""
    scores: dict[str, Tensor] = {}

    def score(name: str, module: nn.Module, inputs: Tensor | None) -> None:
        criterion, matrices = criterion_of(layers[name][1]), readings.as_matrices(module)
        found = [criterion.scores(one, None if inputs is None else inputs[:, group]) for group, one in enumerate(matrices)]
        scores[name] = torch.stack(found).flatten().double()

    if reading := [name for name, (_, plan) in layers.items() if criterion_of(plan).reads_inputs]:
        readings.visit(draft.model, reading, draft.samples, score)
    for name, (module, _) in layers.items():
        if name not in reading:
            score(name, module, None)
    shares: dict[str, float] = {}
    for plan in {repr(sorted(plan.items())): plan for _, plan in layers.values()}.values():
        names = [name for name, (_, own) in layers.items() if own == plan and name in scores]
        if names:
            ranked = torch.cat([scores[name] for name in names])
            kept = patterns.Anywhere(plan["share"])(ranked[None])[0]
            sizes = [len(scores[name]) for name in names]
            shares |= {name: 1 - float(part.double().mean()) for name, part in zip(names, kept.split(sizes), strict=True)}
    return shares
