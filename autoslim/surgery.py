"""Cut channels out of modules, in place. One function per kind of module; the plan of what to cut comes from the groups."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from autoslim.errors import Untreatable
from autoslim.layers import CONVOLUTIONS, RECURRENT
from autoslim.structure import Axis, Group

Cut = Mapping[tuple[str, Axis], Tensor]  # (module, axis) -> kept indices, sorted, int64
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def plan(groups: Iterable[tuple[Group, Tensor]], model: nn.Module) -> dict[tuple[str, Axis], Tensor]:
    """Kept indices per (module, axis) when each group keeps the root channels given with it.

    Several groups may share an axis (concatenation); each removes its own positions.
    """
    removed: dict[tuple[str, Axis], set[int]] = {}
    for group, kept in groups:
        gone = sorted(set(range(group.size)) - set(kept.tolist()))
        for member in group.members:
            spot = removed.setdefault((member.module, member.axis), set())
            for channel in gone:
                spot.update(member.positions[channel])
    present = {name for name, _ in model.named_modules()}
    cut = {}
    for (name, axis), gone in removed.items():
        if name not in present:
            continue  # a removed block took this member with it
        size = axis_size(model.get_submodule(name), axis)
        if len(gone) >= size:
            raise Untreatable(f"{name}: the cut would leave no channel on its {axis} axis")
        cut[name, axis] = torch.tensor([i for i in range(size) if i not in gone])
    return cut


def apply(model: nn.Module, cut: Cut) -> None:
    """Slice every module of the plan; the model is changed in place."""
    for (name, axis), kept in cut.items():
        keep(model.get_submodule(name), axis, kept)


def axis_size(module: nn.Module, axis: Axis) -> int:
    """Length of one axis of a supported module. Raises Untreatable for any other kind."""
    if isinstance(module, RECURRENT):
        return module.hidden_size if axis == "hidden" else module.input_size
    if isinstance(module, nn.Linear):
        return module.out_features if axis == "out" else module.in_features
    if hasattr(module, "out_channels"):
        return module.out_channels if axis == "out" or is_depthwise(module) else module.in_channels
    if isinstance(module, NORMS):
        return module.num_features
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[0]
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    raise Untreatable(f"no rule for cutting channels out of a {type(module).__name__}")


def is_depthwise(module: nn.Module) -> bool:
    """A convolution with one filter per channel: its two channel axes are one."""
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.groups == module.in_channels == module.out_channels


def keep(module: nn.Module, axis: Axis, kept: Tensor) -> None:
    """Keep the given indices of one axis of one module."""
    for kinds, cutter in _CUTTERS:
        if isinstance(module, kinds):
            return cutter(module, axis, kept)
    raise Untreatable(f"no rule for cutting channels out of a {type(module).__name__}")


def _select(module: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    value = getattr(module, name, None)
    if value is None:
        return
    chosen = value.detach().index_select(dim, kept.to(value.device)).contiguous()
    if isinstance(value, nn.Parameter):
        chosen = nn.Parameter(chosen, requires_grad=value.requires_grad)
    setattr(module, name, chosen)


def _keep_conv(module: nn.Module, axis: Axis, kept: Tensor) -> None:
    if is_depthwise(module):
        _select(module, "weight", kept, 0)
        _select(module, "bias", kept, 0)
        module.in_channels = module.out_channels = module.groups = len(kept)
        return
    if module.groups != 1:
        raise Untreatable("grouped convolution: its channels cannot be cut one by one")
    flipped = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    _select(module, "weight", kept, int((axis == "out") == flipped))
    if axis == "out":
        _select(module, "bias", kept, 0)
        module.out_channels = len(kept)
    else:
        module.in_channels = len(kept)


def _keep_linear(module: nn.Linear, axis: Axis, kept: Tensor) -> None:
    _select(module, "weight", kept, 0 if axis == "out" else 1)
    if axis == "out":
        _select(module, "bias", kept, 0)
        module.out_features = len(kept)
    else:
        module.in_features = len(kept)


def _keep_norm(module: nn.Module, axis: Axis, kept: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _select(module, name, kept, 0)
    module.num_features = len(kept)


def _keep_layer_norm(module: nn.LayerNorm, axis: Axis, kept: Tensor) -> None:
    _select(module, "weight", kept, 0)
    _select(module, "bias", kept, 0)
    module.normalized_shape = (len(kept),)


def _keep_embedding(module: nn.Embedding, axis: Axis, kept: Tensor) -> None:
    _select(module, "weight", kept, 1)
    module.embedding_dim = len(kept)


def _keep_prelu(module: nn.PReLU, axis: Axis, kept: Tensor) -> None:
    _select(module, "weight", kept, 0)
    module.num_parameters = len(kept)


def gate_rows(module: nn.RNNBase, kept: Tensor) -> Tensor:
    """Row indices of the kept hidden units in every gate block of a recurrent weight."""
    gates = GATES[type(module).__name__]
    return torch.cat([kept + gate * module.hidden_size for gate in range(gates)])


def _keep_recurrent(module: nn.RNNBase, axis: Axis, kept: Tensor) -> None:
    if getattr(module, "proj_size", 0):
        raise Untreatable("recurrent layer with a projection")
    directions = 2 if module.bidirectional else 1
    both = torch.cat([kept + module.hidden_size * side for side in range(directions)])
    rows = gate_rows(module, kept)
    for name, _value in list(module.named_parameters()):
        first = "_l0" in name
        if axis == "in":
            if name.startswith("weight_ih") and first:
                _select(module, name, kept, 1)
            continue
        _select(module, name, rows, 0)
        if name.startswith("weight_hh"):
            _select(module, name, kept, 1)
        elif name.startswith("weight_ih") and not first:
            _select(module, name, both, 1)
    if axis == "in":
        module.input_size = len(kept)
    else:
        module.hidden_size = len(kept)
    module.flatten_parameters()


_CUTTERS: tuple[tuple[tuple[type, ...], Callable], ...] = (
    ((*CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _keep_conv),
    ((nn.Linear,), _keep_linear),
    (NORMS, _keep_norm),
    ((nn.LayerNorm,), _keep_layer_norm),
    ((nn.Embedding,), _keep_embedding),
    ((nn.PReLU,), _keep_prelu),
    (RECURRENT, _keep_recurrent),
)


def silence(model: nn.Module, group: Group, gone: Tensor) -> None:
    """Zero, in place, what every consumer of ``group`` reads from the root channels ``gone``.

    The law that makes a group trustworthy: a model whose consumers are silenced computes what the cut model computes.
    """
    for member in group.members:
        module = model.get_submodule(member.module)
        spots = torch.tensor([p for channel in gone.tolist() for p in member.positions[channel]], dtype=torch.long)
        with torch.no_grad():
            if member.axis == "hidden":
                for name, value in module.named_parameters():
                    if name.startswith("weight_hh"):
                        value[:, spots] = 0
                    elif name.startswith("weight_ih") and "_l0" not in name:
                        for side in range(2 if module.bidirectional else 1):
                            value[:, spots + side * module.hidden_size] = 0
            elif member.axis == "in" and isinstance(module, RECURRENT):
                for name, value in module.named_parameters():
                    if name.startswith("weight_ih_l0"):
                        value[:, spots] = 0
            elif member.axis == "in" and not is_depthwise(module):
                flipped = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
                (value := module.weight).index_fill_(0 if flipped else 1, spots, 0.0)
