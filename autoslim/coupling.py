"""From labels to groups: classes of labels that look alike are the channels of one group."""

from typing import Any

import torch
from torch import nn

from autoslim.flow import Found, Site
from autoslim.layers import CELLS, CONVOLUTIONS, NORMS, RECURRENT
from autoslim.structure import HEADS, Group, Member

Key = tuple[str, str, bool]  # (module, axis, whether it reads)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def propose(model: nn.Module, found: Found, reasons: dict[str, str]) -> list[Group]:
    """The groups that the flow of channels implies; ``reasons`` gets {module: why its outputs must stay}."""
    classes = found.ledger.classes()
    fixed = {int(classes[label]): why for label, why in reversed(found.ledger.reasons.items())}
    modules = dict(model.named_modules())
    spots: dict[int, dict[Key, list[int]]] = {}
    for site in found.sites:
        of = classes[site.start : site.start + site.size].tolist()
        reads = found.reads & set(range(site.start, site.start + site.size))
        writes = found.writes & set(range(site.start, site.start + site.size))
        explain(site, of, fixed, writes, reasons)
        if reads and writes:
            fixed |= {number: "a tied weight reads and writes them" for number in of if number not in fixed}
        for owner, attribute in site.owners:
            key = (owner, axis_of(modules[owner], attribute, site.axis), bool(reads))
            for position, number in enumerate(of):
                if number not in fixed:
                    spots.setdefault(number, {}).setdefault(key, []).append(position)
    labelled = {name: {int(classes[label]) for label in labels} for name, labels in roles(found).items()}
    add_heads(found, classes, spots)
    whole = [number for number in spots if number in labelled["writes"] and number in labelled["reads"] | labelled["contracted"]]
    return assemble({number: spots[number] for number in whole if number not in fixed})


def roles(found: Found) -> dict[str, set[int]]:
    return {"reads": found.reads, "writes": found.writes, "contracted": found.contracted}


def explain(site: Site, of: list[int], fixed: dict[int, str], writes: set[int], reasons: dict[str, str]) -> None:
    """Note why the channels that a module writes must stay."""
    why = next((fixed[number] for number in of if number in fixed), None)
    if why is not None and writes:
        for owner, _ in site.owners:
            reasons.setdefault(owner, why)


def add_heads(found: Found, classes: torch.Tensor, spots: dict[int, dict[Key, list[int]]]) -> None:
    """The modules that attend count their heads."""
    for heads in found.heads:
        for position, label in enumerate(heads.labels):
            places = spots.get(int(classes[label]))
            if places is not None and position not in places.get((heads.holder, HEADS, False), []):
                places.setdefault((heads.holder, HEADS, False), []).append(position)


def assemble(spots: dict[int, dict[Key, list[int]]]) -> list[Group]:
    """Classes with the same places are the channels of one group."""
    alike: dict[Any, list[dict[Key, list[int]]]] = {}
    for places in spots.values():
        alike.setdefault(frozenset((key, len(set(positions))) for key, positions in places.items()), []).append(places)
    groups = []
    for channels in alike.values():
        keys = sorted(channels[0])
        channels.sort(key=lambda places: [min(places[key]) for key in keys])
        members = tuple(
            Member(module, axis, tuple(tuple(sorted(set(places[module, axis, reads]))) for places in channels), reads)
            for module, axis, reads in keys
        )
        group = Group(next(member.module for member in members if not member.reads and member.axis != HEADS), len(channels), members, "flow")
        if group.size > 1:
            groups.append(group)
    return groups


def axis_of(module: nn.Module, attribute: str, axis: int) -> str:
    """How surgery.py names one axis of one tensor of a module."""
    if axis < 0:
        return "in" if axis == -1 else "hidden"
    if isinstance(module, (*RECURRENT, *CELLS)):
        return f"{attribute}:{axis}"
    plain = attribute in ("weight", "bias")
    if plain and type(module) is not nn.Bilinear and isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)):
        flipped = isinstance(module, TRANSPOSED) and attribute == "weight"
        return "in" if axis == (0 if flipped else 1) else "out"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and axis == 1:
        return "out"
    if isinstance(module, (*NORMS, nn.PReLU)) and not isinstance(module, nn.LayerNorm):
        return "out"
    return f"{attribute}:{axis}"
