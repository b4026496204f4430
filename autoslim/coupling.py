"""From labels to groups: classes of labels that look alike are the channels of one group."""

from collections import Counter
from typing import Any

from torch import nn

from autoslim.labels import Found, Site
from autoslim.layers import CELLS, CONVOLUTIONS, NORMS, RECURRENT, TRANSPOSED
from autoslim.structure import HEADS, Group, Member

UNEVEN = "a reshape or a split, as in a channel shuffle, takes its channels apart"
Key = tuple[str, str, bool]  # (module, axis, whether it reads)


def propose(model: nn.Module, found: Found, reasons: dict[str, str]) -> list[Group]:
    """The groups that the flow of channels implies; ``reasons`` gets {module: why its outputs must stay}."""
    classes = found.ledger.classes().tolist()
    fixed = {classes[label]: why for label, why in found.ledger.reasons.items()}
    fixed |= dict.fromkeys(uneven(found, classes) - fixed.keys(), UNEVEN)
    modules = dict(model.named_modules())
    spots: dict[int, dict[Key, list[int]]] = {}
    for site in found.sites:
        own = range(site.start, site.start + site.size)
        of = classes[site.start : site.start + site.size]
        reads, writes = not found.reads.isdisjoint(own), not found.writes.isdisjoint(own)
        explain(site, of, fixed, writes, reasons)
        if reads and writes:
            fixed |= {number: "a tied weight reads and writes them" for number in of if number not in fixed}
        for owner, attribute in site.owners:
            key = (owner, axis_of(modules[owner], attribute, site.axis), reads)
            for position, number in enumerate(of):
                if number not in fixed:
                    spots.setdefault(number, {}).setdefault(key, []).append(position)
    add_norms(found, classes, fixed, spots)
    written = {classes[label] for label in found.writes}
    needed = {classes[label] for label in found.reads | found.contracted}
    add_heads(found, classes, spots)
    groups = assemble({number: spots[number] for number in sorted(written & needed & spots.keys() - fixed.keys())})
    return apart(groups, reasons)


def apart(groups: list[Group], reasons: dict[str, str]) -> list[Group]:
    """Without the heads that share an axis with channels: the two are cut one after the other, each by its own positions."""
    taken = {(member.module, member.axis) for group in groups if group.kind != HEADS for member in group.members}
    kept = []
    for group in groups:
        if group.kind == HEADS and any((member.module, member.axis) in taken for member in group.members):
            reasons |= dict.fromkeys(group.producers, "its heads are read together with channels of other layers")
        else:
            kept.append(group)
    return kept


def uneven(found: Found, classes: list[int]) -> set[int]:
    """Classes that a reshape or a split into equal pieces would tear: after a fold, all of a row or all of a column must go
    together; of pieces, equally many channels."""
    torn: set[int] = set()
    for labels in found.folds:
        rows = [[classes[label] for label in row] for row in labels.tolist()]
        if any(len(set(row)) > 1 for row in rows) and any(len(set(column)) > 1 for column in zip(*rows, strict=True)):
            torn |= set().union(*rows)
    for labels in found.pieces:
        counts = [Counter(classes[label] for label in piece) for piece in labels.tolist()]
        torn |= {number for count in counts for number in count if any(other[number] != count[number] for other in counts)}
    return torn


def explain(site: Site, of: list[int], fixed: dict[int, str], writes: bool, reasons: dict[str, str]) -> None:
    """Note why the channels that a module writes must stay."""
    why = next((fixed[number] for number in of if number in fixed), None)
    if why is not None and writes:
        for owner, _ in site.owners:
            reasons.setdefault(owner, why)


def add_norms(found: Found, classes: list[int], fixed: dict[int, str], spots: dict[int, dict[Key, list[int]]]) -> None:
    """LayerNorms lose the channels that they take statistics over, also those without scales of their own."""
    for module, labels in found.norms.items():
        for position, label in enumerate(labels.tolist()):
            if classes[label] not in fixed:
                spots.setdefault(classes[label], {}).setdefault((module, "out", False), []).append(position)


def add_heads(found: Found, classes: list[int], spots: dict[int, dict[Key, list[int]]]) -> None:
    """The modules that attend count their heads."""
    for heads in found.heads:
        for position, label in enumerate(heads.labels):
            places = spots.get(classes[label])
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
        group = Group(
            next(member.module for member in members if not member.reads and member.axis != HEADS), len(channels), members, "flow"
        )
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
    if isinstance(module, (*NORMS, nn.PReLU)) and (not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) == 1):
        return "out"
    return f"{attribute}:{axis}"
