"""What each matrix of a recurrent layer reads, step by step: inputs and hidden states, which the layer itself shows only at its last level.

h_t = f(W_ih x_t, W_hh h_{t-1}): a level of a direction is run again as a layer of its own, whose outputs are all h_t (Hochreiter & Schmidhuber 1997,
https://doi.org/10.1162/neco.1997.9.8.1735; Cho et al. 2014, https://arxiv.org/abs/1406.1078). A cell is called at every step, and reads what it is given.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from autoslim.layers import CELLS, RECURRENT


def matrices(module: nn.Module) -> list[str]:
    """Names of the weights that read inputs or hidden states; of layers of other kinds, and of the projections of an LSTM's outputs, none."""
    if not isinstance(module, (*RECURRENT, *CELLS)):
        return []
    return [name for name, _ in module.named_parameters(recurse=False) if name.startswith(("weight_ih", "weight_hh"))]


def reads(module: nn.Module, args: Sequence[Any]) -> dict[str, Tensor]:
    """{matrix: (rows, columns) what it reads} in one call of a recurrent layer or cell with ``args``; padding of packed sequences left out."""
    if isinstance(module, CELLS):
        return cell_reads(module, *args)
    found: dict[str, Tensor] = {}
    data, lengths = padded(module, args[0])
    states = first_states(module, args[1] if len(args) > 1 else None, data.shape[1], data)
    there = torch.arange(len(data))[:, None] < lengths
    for level in range(module.num_layers):
        outputs = []
        for side, suffix in enumerate(("", "_reverse") if module.bidirectional else ("",)):
            own = tuple(state[[level * (1 + module.bidirectional) + side]] for state in states)
            given = turned(data, lengths) if side else data
            hidden = alone(module, f"_l{level}{suffix}", given, own)
            before = torch.cat([own[0], hidden[:-1]])
            found[f"weight_ih_l{level}{suffix}"], found[f"weight_hh_l{level}{suffix}"] = given[there], before[there]
            outputs.append(turned(hidden, lengths) if side else hidden)
        data = torch.cat(outputs, -1)
    return found


def cell_reads(module: nn.Module, data: Tensor, state: Any = None) -> dict[str, Tensor]:
    """As :func:`reads`, of a cell."""
    hidden = state[0] if isinstance(state, tuple | list) else state
    rows = data.reshape(-1, data.shape[-1])
    hidden = rows.new_zeros(len(rows), module.hidden_size) if hidden is None else hidden.reshape(-1, module.hidden_size)
    return {"weight_ih": rows, "weight_hh": hidden}


def padded(module: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
    """((steps, samples, features), steps of each sample) of a layer's input, whichever of its forms it has."""
    if isinstance(data, PackedSequence):
        return pad_packed_sequence(data)
    steps = data.unsqueeze(1) if data.dim() == 2 else data.transpose(0, 1) if module.batch_first else data
    return steps, torch.full((steps.shape[1],), len(steps))


def first_states(module: nn.Module, given: Any, samples: int, like: Tensor) -> list[Tensor]:
    """The states that a layer begins with, each (levels and directions, samples, features): zeros where none are given."""
    if given is None:
        sizes = [module.proj_size or module.hidden_size, *([module.hidden_size] if isinstance(module, nn.LSTM) else [])]
        return [like.new_zeros(module.num_layers * (1 + module.bidirectional), samples, size) for size in sizes]
    return [one.unsqueeze(1) if one.dim() == 2 else one for one in (given if isinstance(given, tuple | list) else (given,))]


def turned(data: Tensor, lengths: Tensor) -> Tensor:
    """(steps, samples, features) backwards in time, each sample from its own last step; what lies behind that stays where it is."""
    steps = torch.arange(len(data))[:, None].expand(len(data), len(lengths))
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return data.gather(0, places[..., None].expand_as(data).to(data.device))


def alone(module: nn.Module, suffix: str, data: Tensor, states: tuple[Tensor, ...]) -> Tensor:
    """All hidden states (steps, samples, features) of one level of one direction."""
    options = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
    options |= {"proj_size": module.proj_size} if module.proj_size else {}
    kind = next(kind for kind in RECURRENT if isinstance(module, kind))
    own = kind(data.shape[-1], module.hidden_size, bias=module.bias, **options).to(data)
    own.load_state_dict({name: getattr(module, name.removesuffix("_l0") + suffix) for name in own.state_dict()})
    return own(data, states if isinstance(module, nn.LSTM) else states[0])[0]


__all__ = ["matrices", "reads"]
