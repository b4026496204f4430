"""Going on with a distillation instead of beginning anew: what a short one and a longer one have in common is learnt once.

With ``schedule: stable`` the rate is level until the last fifth, in which it falls to zero (Hägele et al. 2024,
https://arxiv.org/abs/2405.18392, sections 3 and 4: as good as a cosine of that length). Up to there a longer distillation takes the very same
steps, so that it may go on from the state kept there and ends as if it had taken all of them itself.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.settings import STABLE, fork


@dataclass(frozen=True)
class Trunk:
    """States of one distillation, whatever its length, by the steps that were taken: one file each in ``folder``."""

    folder: Path

    def keep(self, step: int, state: Mapping[str, Any]) -> None:
        """Note the state after ``step`` steps; other processes never see half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        half = self.folder / f"{step}.{os.getpid()}.partial"
        torch.save(dict(state), half)
        half.replace(self.folder / f"{step}.pt")

    def latest(self, most: int) -> tuple[int, dict[str, Any] | None]:
        """(steps, state) of the longest one with at most so many steps; (0, None) without."""
        steps = max((int(path.stem) for path in self.folder.glob("*.pt") if int(path.stem) <= most), default=0)
        return (steps, torch.load(self.folder / f"{steps}.pt", weights_only=True)) if steps else (0, None)


@dataclass(frozen=True)
class Course:
    """A distillation under way: the ``model`` with what moves it, and parameters ``beside`` it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    beside: list[Tensor]

    def begun(self, trunk: Trunk | None, settings: Mapping[str, Any]) -> int:
        """Take over what ``trunk`` has; returns the steps that need not be taken any more."""
        if trunk is None or settings["schedule"] != STABLE:
            return 0
        steps, state = trunk.latest(fork(int(settings["distill_steps"])))
        if state is not None:
            for name in ("model", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])
            with torch.no_grad():
                for mine, known in zip(self.beside, state["beside"], strict=True):
                    mine.copy_(known)
        return steps

    def passed(self, step: int, trunk: Trunk | None, settings: Mapping[str, Any]) -> None:
        """Keep the state where longer distillations part from this one."""
        if trunk is not None and settings["schedule"] == STABLE and step == fork(int(settings["distill_steps"])):
            parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
            trunk.keep(step, parts | {"beside": [one.detach() for one in self.beside]})
