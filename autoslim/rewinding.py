"""Rewinding: the weights that are left go back to an earlier state of the original's training, and learn again from there.

The lottery ticket (Frankle & Carbin 2019, https://arxiv.org/abs/1803.03635: to the initial weights; Frankle et al. 2020,
https://arxiv.org/abs/1912.05671, section 2: to those of an early step). What was removed stays removed.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim import separate, surgery
from autoslim.engine import Draft
from autoslim.errors import Untreatable, UserError
from autoslim.settings import INITIAL


def state_of(told: str, draft: Draft) -> Mapping[str, Tensor]:
    """The earlier weights that ``rewind`` names: a file's, or the draft's initial ones. Raises UserError where there are none."""
    if told != INITIAL:
        return load(told)
    if draft.initial is None:
        raise UserError(
            f"rewind: got {INITIAL!r}, but nothing says what the weights were; allowed: a file of weights, or a task with initial()"
        )
    return draft.initial()


def load(path: str) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or what torch.save wrote. Raises UserError for a file that holds none."""
    if not Path(path).is_file():
        raise UserError(f"rewind: no file {path!r}; give the state dict of the untouched network at an earlier step of its training")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the readers of two formats raise for a damaged or strange file
        raise UserError(f"rewind: {path} does not open as a state dict ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"rewind: {path} holds a {type(state).__name__}, expected a state dict: names of weights to tensors")
    return state


def rewound(draft: Draft, teacher: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the draft's model with the weights of ``state``, a state dict of the original ``teacher``, cut and masked as the draft is.

    Layers that were replaced (factorised ones) keep their weights. Raises UserError where the state is of another network, Untreatable
    where the draft is no cut of the original.
    """
    if "" in draft.replaced:
        raise Untreatable("rewind: a student was built anew, earlier weights of the original do not fit it")
    early = copy.deepcopy(teacher)
    try:
        early.load_state_dict(separate.restated(state, early))
    except RuntimeError as error:
        raise UserError(f"rewind: the state dict is not of this network ({' '.join(str(error).split())[:160]})") from error
    present = {name for name, _ in draft.model.named_modules()}
    surgery.apply(early, {key: kept for key, kept in draft.kept.items() if key[0] in present and key[0] not in draft.replaced})
    model = copy.deepcopy(draft.model)
    known = early.state_dict()
    for name, value in model.state_dict().items():
        if name not in known or is_replaced(draft, name):
            continue
        if known[name].shape != value.shape:
            raise Untreatable(f"rewind: {name} has shape {tuple(value.shape)}, the earlier weights cut alike {tuple(known[name].shape)}")
        value.copy_(known[name])
    draft.constrain(model)
    return model


def is_replaced(draft: Draft, name: str) -> bool:
    """Whether a tensor belongs to a module that is another one than the original's."""
    return any(name == own or name.startswith(own + ".") for own in draft.replaced)
