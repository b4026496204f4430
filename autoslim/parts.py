"""A task whose network runs as several parts (encoder and decoder step, detector core): one part is compressed at a time.

The part's file takes the part's place inside the task's own ``evaluate()``, the other parts stay as they are, so the metric
is the whole system's. Run the search once for each part that should shrink.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from autoslim.errors import UserError
from autoslim.inputs import Inputs, batch_size, tensors
from autoslim.task import Predict, Score, Task, predictor

RECORDED = 2048


class PartTask(Task):
    """A Task seen from one of its parts. ``evaluate(predict, batches)`` gets a dict {part: callable} as ``predict``."""

    resamples = False  # what goes into a part is made anew inside evaluate(), so outputs cannot be looked up again

    def __init__(
        self, source: Any, name: str, args: Mapping[str, str] | None = None, max_samples: int | None = None, part: str | None = None
    ) -> None:
        super().__init__(source, name, args, max_samples)
        self._parts = self._look()
        if not hasattr(source, "evaluate"):
            raise UserError(
                f"task {name}: has parts() but no evaluate(); evaluate(predict, batches) joins the parts, predict is a dict of callables"
            )
        sizes = {key: sum(parameter.numel() for parameter in module.parameters()) for key, (module, _) in self._parts.items()}
        self.part = part or max(sizes, key=sizes.get)
        if self.part not in self._parts:
            raise UserError(f"--part: got {part!r}, allowed: {', '.join(self._parts)}")
        self._recorded: list[tuple[Inputs, None]] | None = None

    def _look(self) -> dict[str, tuple[nn.Module, Inputs]]:
        found = self._call("parts")
        good = (
            isinstance(found, Mapping)
            and found
            and all(
                isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], nn.Module) and tensors(pair[1])
                for pair in found.values()
            )
        )
        if not good:
            raise UserError(f"task {self.name}: parts() returned {type(found).__name__}, expected a dict of name: (module, example input)")
        return {key: (module.eval(), example) for key, (module, example) in found.items()}

    def model(self) -> nn.Module:
        """The part's module."""
        return self._parts[self.part][0]

    def example_input(self) -> Inputs:
        return self._parts[self.part][1]

    def has(self, split: str) -> bool:
        return self._drawable(split, super().batches)

    def batches(self, split: str) -> Iterator[tuple[Inputs, Any]]:
        """The task's own batches; for "train", what reaches the part when evaluate() runs on them with the original parts."""
        if split != "train":
            return super().batches(split)
        if self._recorded is None:
            self._recorded = self._record()
        return iter(self._recorded)

    def _record(self) -> list[tuple[Inputs, None]]:
        kept: list[tuple[Inputs, None]] = []
        run = predictor(self.model())

        def record(inputs: Inputs) -> Any:
            if sum(batch_size(known) for known, _ in kept) < RECORDED:
                kept.append((inputs, None))
            return run(inputs)

        self._call("evaluate", self._joined(record), self._some("train"))
        if not kept:
            raise UserError(
                f"task {self.name}: evaluate() never called the part {self.part!r}; is it used as predict[{self.part!r}](inputs)?"
            )
        return kept

    def _some(self, split: str) -> Iterator[tuple[Inputs, Any]]:
        seen = 0
        for inputs, targets in super().batches(split):
            yield inputs, targets
            seen += batch_size(inputs)
            if seen >= RECORDED:
                return

    def _joined(self, predict: Predict) -> dict[str, Predict]:
        others = {key: predictor(module) for key, (module, _) in self._parts.items() if key != self.part}
        return {**others, self.part: predict}

    def score(self, predict: Predict, split: str, original: Predict | None = None, batches: Iterable | None = None) -> Score:
        """The whole system's metrics with the part computed by ``predict``."""
        return super().score(self._joined(predict), split, None, batches)
