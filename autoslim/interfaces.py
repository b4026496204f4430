"""The doors. Each has few methods, and each docstring states what a member owes; tests/contracts runs over all members.

A member is one file in the door's folder that defines ``Member``; its file name is its name in every YAML and flag.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoslim.candidate import Candidate, Outcome, Point
from autoslim.space import SearchSpace

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from autoslim.engine import Draft
    from autoslim.inputs import Inputs
    from autoslim.sidebyside import Files
    from autoslim.streams import Parts
    from autoslim.structure import Group, Structure
    from autoslim.task import Task


@dataclass(frozen=True)
class Unit:
    """One thing that a technique may act on; ``layers`` are the layers it touches, ``facts`` what the technique must remember."""

    name: str
    layers: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


#: techniques whose zeros and levels save bytes in packed files; kernels for them are rare
BYTES_ALONE: Mapping[str, tuple[Any, ...]] = {"sparsity": (), "gradual": (), "codebook": ()}


class Technique(Protocol):
    """A way to make a model smaller or faster.

    Obligations: ``effective`` returns None exactly when the value changes nothing, is idempotent, and never fails for a value
    of ``values``; ``apply`` changes only ``draft`` (never the caller's model), raises Untreatable for what it cannot do, and
    with no choices changes no bit. ``by_weights = True`` where it treats layers by their weights, each by itself, so that reports name the
    layers that it leaves as they are; the others go by groups and blocks.
    """

    order: int
    values: tuple[Any, ...]

    def units(self, structure: "Structure") -> dict[str, Unit]: ...
    def effective(self, unit: Unit, value: Any) -> Any: ...
    def apply(self, draft: "Draft", choices: Mapping[str, Any]) -> None: ...


class Choose(Protocol):
    """From scores, (rows, columns), to what stays. ``step``: columns that must be seen at once and in order, None for as many as there
    are; ``width``: the columns seen at once must be a multiple of it."""

    step: int | None
    width: int

    def __call__(self, scores: "Tensor") -> "Tensor": ...


class Criterion(Protocol):
    """Says which weights of a layer matter least.

    ``weight`` is (outputs, columns), ``inputs`` (rows, columns) what the layer reads, None unless ``reads_inputs``. Obligations: ``scores``
    are not negative and larger for what matters more; ``prune`` returns the new weight, zero wherever the second result (bool) is False,
    and changes no argument. ``per_row``: scores are comparable within an output only.
    """

    reads_inputs: bool
    per_row: bool

    def scores(self, weight: "Tensor", inputs: "Tensor | None") -> "Tensor": ...
    def prune(self, weight: "Tensor", inputs: "Tensor | None", choose: Choose) -> "tuple[Tensor, Tensor]": ...


class Ranking(Protocol):
    """Says which channels or heads of coupled groups matter.

    ``scores`` gives (size,) float64 per group, larger for what matters more, the same for the same draft; None, or no entry, for a group that
    it cannot tell of; it changes nothing. ``settle`` gets the groups with the sorted indices that stay, before the cut, and may change the
    weights of their readers in ``draft.model``.
    """

    def scores(self, draft: "Draft", groups: "Mapping[str, Group]") -> "Mapping[str, Tensor | None]": ...
    def settle(self, draft: "Draft", chosen: "Sequence[tuple[Group, Tensor]]") -> None: ...


class Coder(Protocol):
    """A way to store the values of one tensor in a packed file.

    Obligations: ``split`` gives None for arrays, (rows, columns), that it does not take, and else facts (integers) and streams of symbols
    from which ``join`` makes the same bits again, -0.0 and NaN included; the docstring of the class says how many bytes the streams need
    at their fixed widths. A coder is never changed once files have been written with it.
    """

    def split(self, values: "np.ndarray") -> "Parts | None": ...
    def join(self, facts: "list[int]", streams: "list[np.ndarray]", shape: tuple[int, int], dtype: "np.dtype") -> "np.ndarray": ...


class Session(Protocol):
    """An opened file. ``run`` takes inputs as the task gives them and returns outputs as forward() gave them; ``bind``
    returns a call without arguments that runs once on fixed inputs and blocks until the result is there: what is timed."""

    def run(self, inputs: "Inputs") -> Any: ...
    def bind(self, inputs: "Inputs") -> Callable[[], Any]: ...


class Runtime(Protocol):
    """A way to ship a model as one file and to run that file.

    Obligations: ``export`` writes the float form of a draft, exactly ``path`` and nothing beside it; ``original``, the untouched model's file and
    the model, may be used to save work and changes nothing else; ``finish`` makes the
    shipped file from a float form, with the draft's bits, and may copy it where there are none; ``open`` needs nothing but the file (no class of
    the user's) and works in a fresh process; ``supports`` says which values of a technique become real in the file, ``accelerates`` which
    of them make it faster there: a missing technique means all its values do.
    """

    suffix: str
    supports: Mapping[str, tuple[Any, ...]]
    accelerates: Mapping[str, tuple[Any, ...]]

    def export(
        self,
        draft: "Draft",
        example: "Inputs",
        calibration: Sequence["Inputs"],
        path: Path,
        dynamic_shapes: Any = None,
        original: tuple[Path, Any] | None = None,
    ) -> tuple[str, ...]: ...
    def finish(self, draft: "Draft", base: Path, calibration: Sequence["Inputs"], path: Path) -> tuple[str, ...]: ...
    def open(self, path: Path, threads: int) -> Session: ...


class Strategy(Protocol):
    """Chooses the next point. Knows nothing of models, files or storages.

    Obligations: ``ask`` depends only on (seed, number, what was told), so that a resumed search continues and never repeats
    its first proposals; it returns a point of the space and a memo (plain data) which is handed back with ``tell``, in this
    run or a later one. ``tell`` takes every outcome, in any order; truth only goes in, place-holders stay inside.

    May have: ``wants_tables`` (the tables of single choices come as ``tables``), ``begins_alone`` (no uniform grid is tried first), ``spare``
    (set before each ``ask`` to the seconds left for a further candidate, which then may depend on it too). A memo with ``whole`` true
    has the candidate scored on all of validation, whatever a part of it says of the drop.
    """

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]: ...
    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None: ...


class Executor(Protocol):
    """Runs candidates somewhere. ``outcomes`` yields each submitted candidate's end exactly once, as they end.

    Obligations: a candidate that crashes, hangs or eats memory ends as Failed with its reason and harms no other; after
    ``close`` no process is left. ``say`` is set by the caller, for messages to the user. ``verifier``, called after ``close``, gives a new
    worker process (``ask`` and ``kill``) on the machine whose times count, or None for this one.
    """

    slots: int
    say: Callable[[str], None]

    def prepare(self) -> Any: ...
    def attach(self, prepared: Any) -> None: ...
    def tables(
        self, items: list[dict[str, Any]], say: Callable[[str], None], enough: Callable[[], bool]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]: ...
    def submit(self, candidate: Candidate) -> None: ...
    def outcomes(self, seconds: float) -> Iterator[tuple[Candidate, Outcome]]: ...
    def close(self) -> None: ...
    def verifier(self) -> Any: ...


class Check(Protocol):
    """One thing that is looked at in a compressed file beside its metric, against the untouched file.

    ``rows`` gives {"level", "n", "untouched", "file", "drop", "low", "high"} per strength (``drop``: how much worse the file is, its interval
    None where none can be had), the same changed inputs for both files. ``passes``: how many strengths it has for a task, 0 where it says
    nothing; by their sum the time is shared. ``rows`` may raise: that is told in the report. ``title`` heads its rows.
    """

    title: str

    def passes(self, task: "Task") -> int: ...

    def rows(self, files: "Files") -> list[dict[str, Any]]: ...


class Chart(Protocol):
    """One figure: ``numbers`` (study tables -> plain data, tested) and ``ink`` (plain data -> PNG file)."""

    title: str

    def numbers(self, tables: Mapping[str, Any]) -> Mapping[str, Any]: ...
    def ink(self, numbers: Mapping[str, Any], path: Path) -> None: ...


__all__ = [
    "Chart",
    "Check",
    "Choose",
    "Coder",
    "Criterion",
    "Executor",
    "Ranking",
    "Runtime",
    "SearchSpace",
    "Session",
    "Strategy",
    "Technique",
    "Unit",
]
