"""What each operation does to labels of channels (labels.py, flow.py): one short rule per kind of operation."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoslim import contractions
from autoslim.inputs import tensors
from autoslim.labels import FIXED, Sheets, along, axis_of, channels, compact, merged, names, varying, vector

if TYPE_CHECKING:
    from autoslim.flow import Flow

Rule = Callable[["Flow", Any, tuple, dict, Any], None]
STATISTICS = "statistics are taken over its channels"
NORMED = "a LayerNorm takes statistics over its channels"


def rule(func: Any) -> Rule | None:
    """The rule of an ATen operation; None where there is none."""
    name = func.overloadpacket.__name__
    found = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if found is None and name.startswith(("upsample_", "_upsample_", "reflection_pad", "replication_pad")):
        return spatial
    if found is None and torch.Tag.pointwise in func.tags:
        return pointwise
    return found


def pointwise(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Element by element: what meets belongs together; what meets numbers of fixed size is fixed."""
    made = tensors(output)
    if not made:
        return
    flow.give(made[0], blend(flow, tensors((args, kwargs)), made[0].shape))


def blend(flow: "Flow", operands: list[Tensor], shape: torch.Size) -> Sheets:
    """Sheets of an element-wise result of ``shape``."""
    carried = [(tensor, [sheet.expand(shape) for sheet in flow.of(tensor)]) for tensor in operands]
    lead = max((sheets for tensor, sheets in carried if tensor not in flow.state), key=len, default=[])
    dims = set().union(*(varying(sheet) for sheet in lead)) if lead else set()
    kept: Sheets = []
    for tensor, sheets in carried:
        chosen = [sheet for sheet in sheets if not dims or varying(sheet) & dims]
        seen = set().union(*(varying(sheet) for sheet in chosen)) if chosen else set()
        for sheet in lead:
            if not varying(sheet) & seen and solid(tensor, varying(sheet), len(shape)):
                flow.ledger.join(sheet, torch.tensor(FIXED))
        kept += chosen
    return merged(flow.ledger, kept)


def solid(tensor: Tensor, dims: set[int], total: int) -> bool:
    """Whether a tensor, broadcast to ``total`` dimensions, has numbers of its own along ``dims``."""
    own = {dim - (total - tensor.dim()) for dim in dims}
    return any(dim >= 0 and tensor.shape[dim] > 1 and tensor.stride(dim) != 0 for dim in own)


def move(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Numbers change places only: the same is done to each sheet of the (one) labelled tensor."""
    source = args[0] if isinstance(args[0], Tensor) else None
    if source is None:
        join(flow, func, args, kwargs, output)
        return
    made = tensors(output)
    found: list[Sheets] = [[] for _ in made]
    for sheet in flow.of(source):
        results = [compact(moved) for moved in tensors(moved_by(func, sheet, args[1:], kwargs, made))]
        for index, moved in enumerate(results):
            found[index].append(moved)
        note_parts(flow, func, sheet, results)
    for tensor, sheets in zip(made, found, strict=True):
        flow.give(tensor, sheets)


def note_parts(flow: "Flow", func: Any, sheet: Tensor, results: list[Tensor]) -> None:
    """Remember axes of channels that were folded or cut into pieces: not every channel of them can go alone."""
    name = func.overloadpacket.__name__
    if name == "split" and len({result.shape for result in results}) == 1 and len(varying(sheet)) == 1 and len(varying(results[0])) == 1:
        flow.found.pieces.append(torch.stack([line(result) for result in results]))
    elif name in ("view", "_unsafe_view", "reshape") and len(varying(sheet)) == 1 and len(varying(results[0])) > 1:
        dims = sorted(varying(results[0]))
        for dim in set(range(results[0].dim())) - set(dims):
            results[0] = results[0].narrow(dim, 0, 1)
        flow.found.folds.append(results[0].flatten().view(results[0].shape[dims[0]], -1))


def line(sheet: Tensor) -> Tensor:
    """The labels along the one dimension in which a sheet varies."""
    (dim,) = varying(sheet)
    return axis_of(sheet, dim, sheet.shape)


def moved_by(func: Any, sheet: Tensor, rest: tuple, kwargs: dict, made: list[Tensor]) -> Any:
    """What the operation does to a sheet, as tensors of the shapes of ``made``."""
    name = func.overloadpacket.__name__
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        return sheet.reshape(made[0].shape)
    if name in ("clone", "_to_copy", "contiguous", "as_strided_", "detach", "alias", "lift_fresh"):
        return sheet.expand(made[0].shape) if sheet.shape != made[0].shape else sheet
    if name == "constant_pad_nd":
        return func(sheet, rest[0], FIXED)
    return func(sheet, *rest, **kwargs)


def join(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Concatenation and stacking: each part keeps its labels; parts without labels are of fixed size."""
    parts, rest = args[0], args[1:]
    lead = next((flow.of(part) for part in parts if flow.of(part) and part not in flow.state), None) or flow.of(parts[0])
    lead = lead or next(flow.of(part) for part in parts if flow.of(part))
    found = []
    for sheet in lead:
        dims = varying(sheet)
        sheets = []
        for part in parts:
            near = next((own for own in flow.of(part) if varying(own) & dims), None)
            sheets.append(torch.full(part.shape, FIXED) if near is None else near)
        made = compact(func(sheets, *rest, **kwargs))
        if flow.normed and made.dim() == sheet.dim():  # a class token beside the patches: all tokens have the same channels
            for dim in varying(made) - dims:
                made = flow.ledger.fold(made, dim)
        found.append(made)
    flow.give(tensors(output)[0], found)


def normalisation(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Batch norm: its numbers belong to the channels."""
    x, own = args[0], [tensor for tensor in tensors((args[1:], kwargs)) if tensor.dim() == 1]
    labels = channels(flow.ledger, flow.of(x), x.shape)
    for tensor in own:
        for sheet in flow.of(tensor) or [torch.tensor(FIXED)]:
            flow.ledger.join(sheet, labels)
    flow.give(tensors(output)[0], [vector(labels, 1, x.shape)])


def group_normalisation(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Group norm: statistics over a group of channels, which is therefore a whole."""
    x, weight, bias, groups = args[0], args[1], args[2], args[6]
    labels = channels(flow.ledger, flow.of(x), x.shape)
    flow.ledger.join(labels.view(groups, -1)[:, :1], labels.view(groups, -1))
    for tensor in (weight, bias):
        for sheet in flow.of(tensor):
            flow.ledger.join(sheet, labels)
    if groups == 1 or weight is None:
        flow.ledger.freeze([labels], STATISTICS)
    flow.give(tensors(output)[0], [vector(labels, 1, x.shape)])


def layer_normalisation(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Layer norm: statistics over the channels, which change with each channel cut; allowed only where the flow is told so."""
    x, last = args[0], len(args[1])
    for sheet in flow.of(x):
        if not any(dim >= x.dim() - last for dim in varying(sheet)):
            continue
        if flow.normed and last == 1:
            normed_labels(flow, sheet, [tensor for tensor in args[2:4] if isinstance(tensor, Tensor)])
        else:
            flow.ledger.freeze([sheet], NORMED)
    flow.give(tensors(output)[0], flow.of(x))


def normed_labels(flow: "Flow", sheet: Tensor, own: list[Tensor]) -> None:
    """A LayerNorm's scale and shift belong to the channels along its last dimension; the module is remembered, as it knows its width."""
    for dim in varying(sheet) - {sheet.dim() - 1}:
        sheet = flow.ledger.fold(sheet, dim)
    labels = axis_of(sheet, -1, sheet.shape)
    for tensor in own:
        for known in flow.of(tensor) or [torch.tensor(FIXED)]:
            flow.ledger.join(known, labels)
    before = flow.found.norms.setdefault(flow.stack[-1], labels)
    if len(before) == len(labels):
        flow.ledger.join(before, labels)
    else:
        flow.ledger.freeze([before, labels], NORMED)


def weight_normalisation(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Weight norm, v * g / ||v||: the norm is taken over all axes but one, so only that one may be cut."""
    direction, size, dim = args[0], args[1], args[2] if len(args) > 2 else 0
    for sheet in flow.of(direction):
        if varying(sheet) != {dim}:
            flow.ledger.freeze([sheet], "a weight norm is taken over its channels")
    made = tensors(output)[0]
    flow.give(made, merged(flow.ledger, flow.of(direction) + [sheet.expand(made.shape) for sheet in flow.of(size)]))


def embedding(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """A table that is looked up: its columns are channels."""
    made, sheet = tensors(output)[0], along(flow.of(args[0]), 1)
    if sheet is not None:
        labels = axis_of(sheet, 1, args[0].shape)
        flow.found.writes.update(labels.tolist())
        flow.give(made, [vector(labels, -1, made.shape)])


def one_dimension(position: int) -> Rule:
    """Softmax, cumsum, sort and the like: mixes along one dimension (argument number ``position``)."""

    def act(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
        x = args[0]
        dim = kwargs.get("dim", args[position] if len(args) > position else -1)
        for sheet in flow.of(x):
            if x.dim() and int(dim) % x.dim() in varying(sheet):
                flow.ledger.freeze([sheet], f"{func.overloadpacket.__name__} mixes its channels")
        for tensor in tensors(output):
            flow.give(tensor, [sheet for sheet in flow.of(x) if tensor.shape == x.shape])

    return act


def reduction(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Sums, means and extremes over dimensions; only a sum may run over channels."""
    x = args[0]
    given = kwargs.get("dim", args[1] if len(args) > 1 and not isinstance(args[1], Tensor) else None)
    keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 and isinstance(args[2], bool) else False))
    if func.overloadpacket.__name__ in ("linalg_vector_norm", "norm"):
        given = kwargs.get("dim", args[2] if len(args) > 2 else None)
        keep = bool(kwargs.get("keepdim", args[3] if len(args) > 3 else False))
    dims = range(x.dim()) if given in (None, []) else [given] if isinstance(given, int) else given
    dims = {dim % x.dim() for dim in dims} if x.dim() else set()
    kept = []
    for sheet in flow.of(x):
        across = dims & varying(sheet)
        if across and func.overloadpacket.__name__ != "sum":
            flow.ledger.freeze([sheet], STATISTICS)
        if across:
            flow.found.contracted.update(names(sheet))
        for dim in across if varying(sheet) - dims else ():
            sheet = flow.ledger.fold(sheet, dim)
        if not across or varying(sheet) - dims:
            kept.append(sheet)
    for tensor in tensors(output):
        flow.give(tensor, [reduced(sheet, dims, keep) for sheet in kept])


def reduced(sheet: Tensor, dims: set[int], keep: bool) -> Tensor:
    """A sheet of labels without ``dims``, or with one place left in each (``keep``)."""
    for dim in sorted(dims, reverse=True):
        sheet = sheet.narrow(dim, 0, 1) if keep else sheet.select(dim, 0)
    return sheet


def spatial(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Pooling, resampling, padding in space: the channels, dimension 1, stay as they are."""
    made = [tensor for tensor in tensors(output) if tensor.dim() == args[0].dim() and tensor.shape[1] == args[0].shape[1]]
    if not made:
        flow.ledger.freeze(flow.of(args[0]), "unusual pooling")
        return
    labels = channels(flow.ledger, flow.of(args[0]), args[0].shape)
    for tensor in made:
        flow.give(tensor, [vector(labels, 1, tensor.shape)])


def alike(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """New numbers in the shape of others follow their size."""
    flow.give(output, flow.of(args[0]) if output.shape == args[0].shape else [])


def nothing(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Gives numbers that belong to no channel, such as a Python value or a position."""


def gated(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Gated linear unit: the first half of the channels times a function of the second."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    half = args[0].shape[dim] // 2
    pairs = [(sheet.narrow(dim, 0, half), sheet.narrow(dim, half, half)) for sheet in flow.of(args[0])]
    for one, other in pairs:
        flow.ledger.join(one, other)
    flow.give(output, [compact(one) for one, _ in pairs])


def taken(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Numbers picked by position: labels are picked alike."""
    if not flow.of(args[0]):
        return
    found = [compact(func(sheet.contiguous(), *args[1:], **kwargs)) for sheet in flow.of(args[0])]
    flow.give(output, found)


#: rule -> the operations that follow it
TABLE: tuple[tuple[Rule, str], ...] = (
    (
        move,
        """view _unsafe_view reshape _reshape_alias permute transpose t expand slice select split split_with_sizes unbind squeeze
        unsqueeze clone alias detach roll flip repeat constant_pad_nd unfold pixel_shuffle pixel_unshuffle narrow _to_copy lift_fresh
        chunk contiguous as_strided_ diagonal""",
    ),
    (join, "cat stack concat"),
    (contractions.matrix, "mm bmm"),
    (contractions.matrix_plus, "addmm baddbmm"),
    (contractions.convolution, "convolution mkldnn_convolution _convolution"),
    (
        contractions.attention,
        """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention""",
    ),
    (normalisation, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"),
    (group_normalisation, "native_group_norm"),
    (layer_normalisation, "native_layer_norm"),
    (weight_normalisation, "_weight_norm_interface"),
    (embedding, "embedding _embedding_bag _embedding_bag_forward_only"),
    (gated, "glu"),
    (one_dimension(1), "_softmax _log_softmax cumsum cumprod logcumsumexp sort"),
    (one_dimension(2), "topk"),
    (reduction, "sum mean amax amin max min var std any all logsumexp linalg_vector_norm norm var_mean argmax argmin"),
    (
        spatial,
        """max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d
        _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d roi_align grid_sampler_2d""",
    ),
    (alike, "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full"),
    (nothing, "_local_scalar_dense is_nonzero item equal isnan nonzero sym_size"),
    (taken, "index index_select gather take"),
    (
        pointwise,
        """hardswish hardsigmoid hardtanh leaky_relu masked_fill fill where native_dropout _prelu_kernel clamp copy addcmul relu6
        log_sigmoid_forward""",
    ),
)
RULES: dict[str, Rule] = {name: act for act, names_of in TABLE for name in names_of.split()}
