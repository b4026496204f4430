"""Which weighted layers a model runs, in which order, with which parameters and multiply-accumulates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from autoslim.crumbs import running
from autoslim.inputs import Inputs, batch_size, call, tensors
from autoslim.structure import Layer

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.GRU, nn.LSTM, nn.RNN)
CELLS = (nn.GRUCell, nn.LSTMCell, nn.RNNCell)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *RECURRENT, *CELLS, nn.MultiheadAttention)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
#: looked up instead of multiplied: layers without multiply-accumulates
TABLES = (nn.Embedding,)
#: parameters that cost no multiply-accumulate worth naming: folded, looked up or element-wise
CHEAP = (*NORMS, nn.Embedding, nn.EmbeddingBag, nn.PReLU)


def attention_flops(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> int:
    """The two products of attention, as the registry counts: two per multiply-accumulate."""
    return flop_counter.sdpa_flop_count(query.shape, key.shape, value.shape)


#: PyTorch's own formulas, and the one that it lacks for the CPU
FORMULAS = flop_counter.flop_registry | {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}


def macs_of(module: nn.Module, inputs: Any, output: Any) -> int:
    """Multiply-accumulates of one call, by the textbook formula of each kind; biases are not counted."""
    if isinstance(module, TABLES):
        return 0
    if isinstance(module, nn.Linear):
        return tensors(inputs)[0].numel() * module.out_features
    if isinstance(module, (*RECURRENT, *CELLS)):
        steps = tensors(inputs)[0].numel() // module.input_size
        return steps * sum(weight.numel() for name, weight in module.named_parameters() if name.startswith("weight_"))
    if isinstance(module, nn.MultiheadAttention):
        return attention_macs(module, *tensors(inputs)[:3])
    weights_per_position = module.weight.numel()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return tensors(inputs)[0].numel() // module.in_channels * weights_per_position
    return tensors(output)[0].numel() // module.out_channels * weights_per_position


def attention_macs(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> int:
    """Projections of query, key, value and output, and the two products inside (scores, and scores times values)."""
    width, inner = module.embed_dim, module.num_heads * module.head_dim  # narrower where heads were removed
    long, wide = query.numel() // query.shape[-1], key.numel() // key.shape[-1]
    batch = 1 if query.dim() == 2 else query.shape[0 if module.batch_first else 1]
    projections = 2 * long * width * inner + wide * inner * (key.shape[-1] + value.shape[-1])
    return projections + 2 * batch * (long // batch) * (wide // batch) * inner


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    """{name: module} of the layers that count, each module once, under its first name."""
    inside = {child for module in model.modules() if isinstance(module, nn.MultiheadAttention) for child in module.children()}
    return {name: module for name, module in model.named_modules() if isinstance(module, COUNTED) and module not in inside}


def trace(model: nn.Module, example: Inputs) -> tuple[dict[str, Layer], tuple[str, ...]]:
    """({name: Layer} in the order of execution, names of what is not counted), from one run on ``example``. Embeddings are layers
    of no multiply-accumulates.

    Forward hooks count the weighted modules; a dispatch mode counts products that no such module runs, for the module that
    holds the weight or, without a weight, for the one that is running. Control flow, dicts and custom modules do not matter.
    """
    counter = Counter(model, max(batch_size(example), 1))
    try:
        with torch.no_grad(), stepwise(), counter, running("forward() of the network"):
            call(model, example)
    finally:
        counter.remove()
    return counter.found, uncounted(model, counter.found)


@contextmanager
def stepwise() -> Iterator[None]:
    """PyTorch's Transformer layers compute step by step inside, not by one fused operation that hides and packs what it computes."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Counter(TorchDispatchMode):
    """Counts while a model runs; see :func:`trace`."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.found: dict[str, Layer] = {}
        self.counted = {module: name for name, module in weighted(model).items()}
        self.counted |= {module: name for name, module in model.named_modules() if isinstance(module, TABLES)}
        self.modules = dict(model.named_modules())
        self.owners = {
            value.untyped_storage().data_ptr(): name for name, module in self.modules.items() for value in module.parameters(recurse=False)
        }
        self.stack: list[str] = [""]
        self.inside = 0
        self.handles = []
        for name, module in self.modules.items():
            self.handles.append(module.register_forward_pre_hook(self.enter(name)))
            self.handles.append(module.register_forward_hook(self.leave(name), with_kwargs=True))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def enter(self, name: str) -> Any:
        """A pre-hook that says which module runs; what runs inside a counted one is not counted again."""

        def hook(module: nn.Module, args: tuple) -> None:
            self.stack.append(name)
            self.inside += module in self.counted

        return hook

    def leave(self, name: str) -> Any:
        """The hook that ends what :meth:`enter` began and adds the module's multiply-accumulates."""

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            self.stack.pop()
            if module in self.counted:
                self.inside -= 1
                if not self.inside:
                    self.add(self.counted[module], macs_of(module, (args, kwargs), output))

        return hook

    def add(self, name: str, macs: int, calls: int = 1) -> None:
        """Count ``macs``, of the whole batch, for a module."""
        known = self.found.get(name) or replace(describe(name, self.modules[name], 0, len(self.found)), calls=0)
        self.found[name] = replace(known, macs=known.macs + macs // self.batch, calls=known.calls + calls)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None and not self.inside:
            owned = [self.owners[tensor.untyped_storage().data_ptr()] for tensor in tensors(args) if self.holds(tensor)]
            # the registry's formulas take shapes and count an addition and a multiplication as two
            macs = formula(*args, **(kwargs or {}), out_val=output) // 2
            name = owned[0] if owned else self.stack[-1]
            self.add(name, macs, int(bool(owned)))
            self.found[name] = replace(self.found[name], called=not owned)
        return output

    def holds(self, tensor: Tensor) -> bool:
        return tensor.dim() > 1 and tensor.untyped_storage().data_ptr() in self.owners


def describe(name: str, module: nn.Module, macs: int, order: int) -> Layer:
    """The Layer of one module; parameters are its own, children included. A module without a formula of its own that runs a
    product is of the kind "MatMul"."""
    if not isinstance(module, (*COUNTED, *TABLES)):
        return Layer(name, "MatMul", sum(parameter.numel() for parameter in module.parameters(recurse=False)), macs, 0, 0, order=order)
    params = sum(parameter.numel() for parameter in module.parameters())
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return Layer(name, kind, params, macs, module.out_features, module.in_features, order=order)
    if isinstance(module, TABLES):
        return Layer(name, kind, params, macs, module.embedding_dim, module.num_embeddings, order=order)
    if isinstance(module, nn.MultiheadAttention):
        return Layer(name, kind, params, macs, module.embed_dim, module.embed_dim, order=order)
    if isinstance(module, (*RECURRENT, *CELLS)):
        return Layer(name, kind, params, macs, module.hidden_size, module.input_size, order=order)
    return Layer(name, kind, params, macs, module.out_channels, module.in_channels, tuple(module.kernel_size), module.groups, order=order)


def uncounted(model: nn.Module, found: dict[str, Layer]) -> tuple[str, ...]:
    """What the MAC count leaves out, in words: weighted layers that never ran and parameters of kinds without a formula."""
    notes = [f"{name}: never ran on the example input" for name in weighted(model) if name not in found]
    for name, module in model.named_modules():
        own: list[Tensor] = list(module.parameters(recurse=False))
        if own and not isinstance(module, (*COUNTED, *CHEAP)) and name not in found:
            notes.append(
                f"{name or 'model'} ({type(module).__name__}): {sum(p.numel() for p in own)} parameters of a kind without a MAC formula"
            )
    return tuple(notes)


def count(model: nn.Module, example: Inputs) -> tuple[int, int]:
    """(parameters of the whole model, counted multiply-accumulates for one sample)."""
    layers, _ = trace(model, example)
    return sum(parameter.numel() for parameter in model.parameters()), sum(layer.macs for layer in layers.values())
