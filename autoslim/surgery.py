"""Cut channels out of modules, in place. One function per kind of module; the plan of what to cut comes from the groups."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from autoslim import heads
from autoslim.errors import Untreatable
from autoslim.layers import CELLS, CONVOLUTIONS, RECURRENT, TRANSPOSED
from autoslim.structure import HEADS, Axis, Group

Cut = Mapping[tuple[str, Axis], Tensor]  # (module, axis) -> kept indices, sorted, int64
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
#: attributes that hold the width of a tensor which the module itself holds, such as a class token
STREAMS = ("hidden_dim", "embed_dim", "hidden_size", "d_model", "dim")
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
    present = dict(model.named_modules())
    cut = {}
    for (name, axis), gone in removed.items():
        if name not in present or ":" in axis and not hasattr(present[name], axis.rpartition(":")[0]):
            continue  # a removed block took this member with it
        size = axis_size(present[name], axis)
        if len(gone) >= size:
            raise Untreatable(f"{name}: the cut would leave no channel on its {axis} axis")
        cut[name, axis] = torch.tensor([i for i in range(size) if i not in gone])
    return cut


def apply(model: nn.Module, cut: Cut) -> None:
    """Slice every module of the plan; the model is changed in place. Tensors that were one and are cut alike stay one."""
    shared = places(model)
    for (name, axis), kept in sorted(cut.items(), key=lambda item: item[0][1] == HEADS):  # heads last: they need the new widths
        keep(model.get_submodule(name), axis, kept)
    for owners in shared:
        values = [getattr(module, attribute) for module, attribute in owners]
        if any(value is not values[0] for value in values) and all(torch.equal(value, values[0]) for value in values):
            for module, attribute in owners:
                setattr(module, attribute, values[0])
    heads.fit(model)
    heads.unfuse(model)


def places(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """The modules and attributes of each parameter that stands in several places."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, value in module._parameters.items():
            if value is not None:
                owners.setdefault(id(value), []).append((module, attribute))
    return [found for found in owners.values() if len(found) > 1]


def axis_size(module: nn.Module, axis: Axis) -> int:
    """Length of one axis of a supported module. Raises Untreatable for any other kind."""
    if axis == HEADS:
        return heads.number(module)
    if ":" in axis:
        attribute, _, dim = axis.rpartition(":")
        return getattr(module, attribute).shape[int(dim)]
    if isinstance(module, CELLS):
        return module.hidden_size if axis == "hidden" else module.input_size
    if isinstance(module, RECURRENT):
        return module.hidden_size if axis == "hidden" else module.input_size
    if isinstance(module, nn.Linear):
        return module.out_features if axis == "out" else module.in_features
    if hasattr(module, "out_channels"):
        return module.out_channels if axis == "out" else module.in_channels // module.groups if module.groups > 1 else module.in_channels
    if isinstance(module, NORMS):
        return module.num_features
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[0]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return module.embedding_dim
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    raise Untreatable(f"no rule for cutting channels out of a {type(module).__name__}")


def is_depthwise(module: nn.Module) -> bool:
    """A convolution with one filter per channel: its two channel axes are one."""
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.groups == module.in_channels == module.out_channels


def keep(module: nn.Module, axis: Axis, kept: Tensor) -> None:
    """Keep the given indices of one axis of one module."""
    if axis == HEADS:
        return heads.keep(module, kept)
    if ":" in axis:
        return _keep_tensor(module, axis, kept)
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


def _keep_tensor(module: nn.Module, axis: Axis, kept: Tensor) -> None:
    """One dimension of a tensor of any module; the module must take its sizes from its tensors."""
    attribute, _, dim = axis.rpartition(":")
    before = getattr(module, attribute).shape[int(dim)]
    _select(module, attribute, kept, int(dim))
    for name in STREAMS if not isinstance(module, nn.MultiheadAttention) else ():
        if getattr(module, name, None) == before:
            setattr(module, name, len(kept))
    size = {"0": "nx", "1": "nf"}.get(dim, "")
    if attribute == "weight" and hasattr(module, size):
        setattr(module, size, len(kept))  # transformers' Conv1D


def _keep_conv(module: nn.Module, axis: Axis, kept: Tensor) -> None:
    flipped = isinstance(module, TRANSPOSED)
    if module.groups > 1 and axis == "in":
        _select(module, "weight", kept, 1)  # the same channels of every group
        module.in_channels = module.groups * len(kept)
        return
    if module.groups > 1:
        _keep_grouped(module, kept)
        return
    _select(module, "weight", kept, int((axis == "out") == flipped))
    if axis == "out":
        _select(module, "bias", kept, 0)
        module.out_channels = len(kept)
    else:
        module.in_channels = len(kept)


def _keep_grouped(module: nn.Module, kept: Tensor) -> None:
    """Outputs of whole groups go, and the inputs of these groups with them; depthwise convolutions are the simplest case. Or
    the same outputs of every group go."""
    made, read = module.out_channels // module.groups, module.weight.shape[1]
    groups, counts = torch.unique(kept // made, return_counts=True)
    if not bool((counts == counts[0]).all()) or counts[0] < made and len(groups) < module.groups:
        raise Untreatable("grouped convolution: only whole groups, or the same channels of every group, can be cut")
    _select(module, "weight", kept, 0)
    _select(module, "bias", kept, 0)
    module.groups, module.in_channels, module.out_channels = len(groups), len(groups) * read, len(kept)


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


def _keep_group_norm(module: nn.GroupNorm, axis: Axis, kept: Tensor) -> None:
    size = module.num_channels // module.num_groups
    for name in ("weight", "bias"):
        _select(module, name, kept, 0)
    module.num_groups, module.num_channels = len(kept) // size, len(kept)


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
    return torch.cat([kept + gate * module.hidden_size for gate in range(gates(module))])


def gates(module: nn.Module) -> int:
    """How many gates a recurrent layer or cell has."""
    return next(count for name, count in GATES.items() if type(module).__name__.startswith(name))


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


def _keep_cell(module: nn.RNNCellBase, axis: Axis, kept: Tensor) -> None:
    if axis == "in":
        _select(module, "weight_ih", kept, 1)
        module.input_size = len(kept)
        return
    rows = gate_rows(module, kept)
    for name, dim, chosen in (
        ("weight_ih", 0, rows),
        ("weight_hh", 0, rows),
        ("bias_ih", 0, rows),
        ("bias_hh", 0, rows),
        ("weight_hh", 1, kept),
    ):
        _select(module, name, chosen, dim)
    module.hidden_size = len(kept)


_CUTTERS: tuple[tuple[tuple[type, ...], Callable], ...] = (
    ((*CONVOLUTIONS, *TRANSPOSED), _keep_conv),
    ((nn.Linear,), _keep_linear),
    (NORMS, _keep_norm),
    ((nn.GroupNorm,), _keep_group_norm),
    ((nn.LayerNorm,), _keep_layer_norm),
    ((nn.Embedding, nn.EmbeddingBag), _keep_embedding),
    ((nn.PReLU,), _keep_prelu),
    (RECURRENT, _keep_recurrent),
    (CELLS, _keep_cell),
)


def silence(model: nn.Module, group: Group, gone: Tensor) -> None:
    """Zero what every consumer of ``group`` reads from the root channels ``gone``. The tensors are replaced, not written to.

    The law that makes a group trustworthy: a model whose consumers are silenced computes what the cut model computes. Channels
    that no weight reads, such as those of a dot product, are silenced where they are written.
    """
    spoken = any(member.reads or member.axis == "hidden" for member in group.members)
    for member in group.members:
        module = model.get_submodule(member.module)
        spots = torch.tensor([p for channel in gone.tolist() for p in member.positions[channel]], dtype=torch.long)
        if member.axis == "hidden":
            for name in [name for name in module._parameters if name.startswith(("weight_hh", "weight_ih"))]:
                if name.startswith("weight_hh"):
                    _zero(module, name, spots, 1)
                elif "_l" in name and "_l0" not in name:
                    sides = [spots + side * module.hidden_size for side in range(2 if module.bidirectional else 1)]
                    _zero(module, name, torch.cat(sides), 1)
        elif member.reads or not spoken and member.axis != HEADS:
            _silence_axis(module, member.axis, spots)


def _silence_axis(module: nn.Module, axis: Axis, spots: Tensor) -> None:
    """Zero what a module reads ("in") or writes at ``spots`` of one axis."""
    flipped = isinstance(module, TRANSPOSED)
    if ":" in axis:
        attribute, _, dim = axis.rpartition(":")
        _zero(module, attribute, spots, int(dim))
    elif isinstance(module, (*RECURRENT, *CELLS)):
        for name in [name for name in module._parameters if name.startswith("weight_ih") and "_l" not in name.replace("_l0", "")]:
            _zero(module, name, spots, 1)
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        _zero(module, "weight", spots, 1)
    elif axis == "in":
        _zero(module, "weight", spots, 0 if flipped else 1)
    else:
        _zero(module, "weight", spots, 1 if flipped and module.weight.dim() > 1 else 0)
        if getattr(module, "bias", None) is not None:
            _zero(module, "bias", spots, 0)


def _zero(module: nn.Module, name: str, spots: Tensor, dim: int) -> None:
    value = getattr(module, name)
    silent = value.detach().index_fill(dim, spots.to(value.device), 0.0)
    setattr(module, name, nn.Parameter(silent, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else silent)
