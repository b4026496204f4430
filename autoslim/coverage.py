"""The whole look at a model before anything is searched: its structure, and what each technique could do to it."""

import time
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from autoslim import blocks, groups
from autoslim.baking import baked
from autoslim.inputs import Inputs
from autoslim.layers import COUNTED, NORMS, trace
from autoslim.structure import Layer, Structure


def analyse(model: nn.Module, example: Inputs, seconds: float = 20.0) -> Structure:
    """The structure of ``model`` (in eval mode, not changed); no new proposal is checked after ``seconds``."""
    start, model = time.monotonic(), baked(model, example)
    layers, not_counted = trace(model, example)
    tables = [name for name, layer in layers.items() if layer.kind == "Embedding"]
    others = {name: layer for name, layer in layers.items() if name not in tables}
    found = groups.find(model, example, others, seconds - (time.monotonic() - start))
    left_out = found.left_out | dict.fromkeys(tables, "a table of embeddings: only its bits can be changed")
    left_out |= {name: why for name, why in untreated(model).items() if name not in layers and name not in found.covered}
    return Structure(
        layers,
        found.groups,
        blocks.find(model, example, layers),
        tied_weights(model),
        left_out,
        not_counted,
        sum(parameter.numel() for parameter in model.parameters()),
        {name: own for name, module in model.named_modules() if (own := held(module))},
        idle(model, layers, found.used),
        str(found),
    )


def held(module: nn.Module) -> int:
    """The number of parameters that a module holds itself."""
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def idle(model: nn.Module, layers: Mapping[str, Layer], used: set[tuple[str, str]] | None) -> dict[str, int]:
    """{module: parameters that took no part in the run}, which no shipped file holds."""
    found = {}
    for name, module in model.named_modules():
        if used is None:
            count = held(module) if isinstance(module, COUNTED) and name not in layers else 0
        else:
            count = sum(
                value.numel()
                for attribute, value in module.named_parameters(recurse=False, remove_duplicate=False)
                if (name, attribute) not in used
            )
        if count:
            found[name] = count
    return found


def reach(structure: Structure) -> dict[str, float]:
    """The shares of the parameters (without idle ones) and of the MACs in layers that channels, heads or blocks can shrink."""
    touched = {member.module for group in structure.groups.values() for member in group.members}
    touched |= {name for name in structure.own if any(name.startswith(f"{block}.") for block in structure.blocks)}
    idle_params = sum(structure.idle.values())
    params = sum(count - structure.idle.get(name, 0) for name, count in structure.own.items() if name in touched)
    inside = {name for name in structure.layers if any(name.startswith(f"{block}.") for block in structure.blocks)}
    macs = sum(layer.macs for name, layer in structure.layers.items() if name in touched | inside)
    return {
        "params_share": min(1.0, params / max(structure.params - idle_params, 1)),
        "macs_share": macs / max(structure.macs, 1),
        "idle_params": idle_params,
    }


def untreated(model: nn.Module) -> dict[str, str]:
    """{module: why} of the modules with parameters of their own that no technique here looks at. Norms are left to their
    layers: they are cut with them and folded on export."""
    found = {}
    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if own and not isinstance(module, COUNTED) and not isinstance(module, NORMS):
            found[name or "(the model itself)"] = f"{type(module).__name__}: no technique treats its {own} parameters"
    return found


def tied_weights(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Names of the parameters that are one and the same tensor, each set sorted."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(tuple(sorted(same)) for same in names.values() if len(same) > 1)


def not_reached(technique: str, structure: Structure, touched: Collection[str]) -> dict[str, str]:
    """{layer or module: why} of what holds weights that a technique by weights leaves as they are."""
    tied = {parameter.rpartition(".")[0] for names in structure.tied for parameter in names}
    found = {}
    for name, layer in structure.layers.items():
        if layer.params and name not in touched:
            kind = (
                "parameters of its own in no layer" if layer.kind == "MatMul" else f"{layer.kind} of {layer.out} by {layer.inputs} channels"
            )
            other = "" if layer.called else ", whose weight other code reads"
            found[name or "(the model itself)"] = f"{technique} has no form for {kind}{other}{', tied to another' if name in tied else ''}"
    return found


def report(structure: Structure, techniques: dict[str, Any]) -> dict[str, Any]:
    """Plain data for people and charts: per technique its units and shares, the tied, the left out and why.

    ``techniques`` maps a name to a member of the techniques door.
    """
    totals = {"params": max(structure.params, 1), "macs": max(structure.macs, 1)}
    rows = {}
    for name, technique in techniques.items():
        units = technique.units(structure)
        touched = {layer for unit in units.values() for layer in unit.layers if layer in structure.layers}
        rows[name] = {
            "units": len(units),
            "params_share": sum(structure.layers[layer].params for layer in touched) / totals["params"],
            "macs_share": sum(structure.layers[layer].macs for layer in touched) / totals["macs"],
            "not_reached": not_reached(name, structure, touched) if getattr(technique, "by_weights", False) else {},
        }
    return {
        "params": structure.params,
        "macs": structure.macs,
        "layers": [vars(layer) | {"kernel": list(layer.kernel)} for layer in structure.layers.values()],
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "found_by": group.found_by,
                "kind": group.kind,
                "producers": sorted(set(group.producers)),
                "layers": sorted({m.module for m in group.members}),
            }
            for group in structure.groups.values()
        ],
        "blocks": [vars(block) for block in structure.blocks.values()],
        "techniques": rows,
        "structural": reach(structure),
        "checked": structure.checked,
        "tied": [list(names) for names in structure.tied],
        "left_out": dict(structure.left_out),
        "not_counted": list(structure.not_counted),
    }
