"""Labels of channels: which numbers of a tensor belong to which channel of which weight, and which channels belong together.

A label tensor, called a sheet, has the shape of the tensor that it describes and holds one whole number per element; a
dimension along which nothing varies has stride 0. Labels that must live or die together are joined by edges; the connected
components are the coupled channels (the classes of the dependency graph of Fang et al. 2023, arXiv 2301.12900, found here by
letting labels flow through the operations of one run).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: the label of what cannot shrink: inputs, outputs, constants of fixed size
FIXED = 0
Sheets = list[Tensor]


class Ledger:
    """Labels given out and the edges between them. ``reasons``: {label: why whatever is joined to it must stay}."""

    def __init__(self) -> None:
        self.size = 1
        self.reasons: dict[int, str] = {FIXED: "its channels meet something of fixed size"}
        self.edges: list[Tensor] = []

    def fresh(self, count: int) -> Tensor:
        """(count,) int64 new labels."""
        self.size += count
        return torch.arange(self.size - count, self.size)

    def reason(self, why: str) -> int:
        """The label of a reason; the same text has the same label."""
        for label, known in self.reasons.items():
            if known == why:
                return label
        label = int(self.fresh(1))
        self.reasons[label] = why
        return label

    def join(self, one: Tensor, other: Tensor) -> None:
        """Labels at the same place of two sheets of broadcastable shapes belong together."""
        one, other = torch.broadcast_tensors(one, other)
        both = [dim for dim in range(one.dim()) if one.stride(dim) == 0 and other.stride(dim) == 0]
        for dim in both:
            one, other = one.narrow(dim, 0, min(1, one.shape[dim])), other.narrow(dim, 0, min(1, other.shape[dim]))
        pairs = torch.stack([one.reshape(-1), other.reshape(-1)])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if pairs.shape[1]:
            coded = torch.unique(pairs[0] * self.size + pairs[1])  # far faster than unique columns
            self.edges.append(torch.stack([coded // self.size, coded % self.size]))

    def freeze(self, sheets: Iterable[Tensor], why: str) -> None:
        """Nothing of these sheets may be cut."""
        for sheet in sheets:
            self.join(sheet, torch.tensor(self.reason(why)))

    def fold(self, sheet: Tensor, dim: int) -> Tensor:
        """Join all labels along one dimension; the sheet then varies no more along it."""
        dim %= sheet.dim()
        first = sheet.narrow(dim, 0, min(1, sheet.shape[dim]))
        if dim in varying(sheet):
            self.join(first, sheet)
        return first.expand(sheet.shape)

    def classes(self) -> Tensor:
        """(size,) int64: the class of each label."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        pairs = torch.cat(self.edges, 1).numpy() if self.edges else torch.zeros(2, 0, dtype=torch.long).numpy()
        matrix = coo_matrix((torch.ones(pairs.shape[1]).numpy(), (pairs[0], pairs[1])), (self.size, self.size))
        return torch.from_numpy(connected_components(matrix, directed=False)[1]).long()


@dataclass(frozen=True)
class Site:
    """One axis of one tensor of the model's state: its labels are ``start`` to ``start + size``. ``owners``: (module, attribute)
    of every place that holds the tensor. Recurrent layers have the axes -1 (inputs) and -2 (hidden units)."""

    owners: tuple[tuple[str, str], ...]
    axis: int
    start: int
    size: int


@dataclass(frozen=True)
class Heads:
    """An attention product inside module ``holder``: one label per head, in order."""

    holder: str
    labels: tuple[int, ...]


@dataclass
class Found:
    """What one run showed. ``reads``, ``writes``, ``contracted``: labels in that role; ``used``: attributes that took part;
        ``folds``: labels of one axis that a reshape made into (outer, inner); ``pieces``: of one axis cut into equal pieces;
    ``norms``: {module: labels of the channels that its LayerNorm takes statistics over}, where these may be cut."""

    ledger: Ledger
    sites: list[Site] = field(default_factory=list)
    heads: list[Heads] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    contracted: set[int] = field(default_factory=set)
    used: set[tuple[str, str]] = field(default_factory=set)
    folds: list[Tensor] = field(default_factory=list)
    norms: dict[str, Tensor] = field(default_factory=dict)
    pieces: list[Tensor] = field(default_factory=list)


def vector(labels: Tensor, dim: int, shape: Iterable[int]) -> Tensor:
    """A sheet of ``shape`` that varies along ``dim`` alone."""
    shape = tuple(shape)
    return labels.view([-1 if index == dim % len(shape) else 1 for index in range(len(shape))]).expand(shape)


def varying(sheet: Tensor) -> set[int]:
    """Dimensions along which a compact sheet varies."""
    return {dim for dim in range(sheet.dim()) if sheet.shape[dim] > 1 and sheet.stride(dim) != 0}


def compact(sheet: Tensor) -> Tensor:
    """The same sheet with stride 0 where it does not vary."""
    for dim in range(sheet.dim()):
        if sheet.shape[dim] > 1 and sheet.stride(dim) != 0:
            first = sheet.narrow(dim, 0, 1)
            if bool((squeezed(sheet, dim) == squeezed(first, dim)).all()):
                sheet = first.expand(sheet.shape)
    return sheet


def squeezed(sheet: Tensor, but: int) -> Tensor:
    """The sheet with length 1 where it surely does not vary, except along ``but``."""
    for dim in range(sheet.dim()):
        if dim != but and sheet.shape[dim] > 1 and sheet.stride(dim) == 0:
            sheet = sheet.narrow(dim, 0, 1)
    return sheet


def names(sheet: Tensor) -> list[int]:
    """The labels of a sheet, each once."""
    return squeezed(sheet, -1).unique().tolist()


def along(sheets: Sheets, dim: int) -> Tensor | None:
    """The first sheet that varies along ``dim``."""
    return next((sheet for sheet in sheets if dim % sheet.dim() in varying(sheet)), None)


def axis_of(sheet: Tensor | None, dim: int, shape: torch.Size) -> Tensor:
    """(shape[dim],) the labels along one dimension."""
    if sheet is None:
        return torch.full((shape[dim],), FIXED)
    return sheet.movedim(dim, 0).flatten(1)[:, 0] if sheet.dim() > 1 else sheet


def channels(ledger: Ledger, sheets: Sheets, shape: torch.Size) -> Tensor:
    """(C,) the label of each channel, dimension 1 of ``shape``; places of one channel that differ are joined."""
    sheet = along(sheets, 1)
    if sheet is None:
        return torch.full((shape[1],), FIXED)
    for dim in varying(sheet) - {1}:
        sheet = ledger.fold(sheet, dim)
    return axis_of(sheet, 1, sheet.shape)


def merged(ledger: Ledger, sheets: Sheets) -> Sheets:
    """Sheets of one tensor: those that vary along a common dimension are joined and become one."""
    found: Sheets = []
    for sheet in sheets:
        for index, known in enumerate(found):
            if varying(sheet) & varying(known):
                ledger.join(sheet, known)
                found[index] = known if len(varying(known)) >= len(varying(sheet)) else sheet
                break
        else:
            found.append(sheet)
    return found
