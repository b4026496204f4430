"""How channels flow through a model: one run on the example under a dispatch mode that carries labels along.

Every axis of every parameter and buffer gets labels (labels.py). Each operation that the model runs, whoever calls it, passes
the labels of its inputs on, joins those that meet, and fixes those that it mixes. Nothing of the model's code is read: control
flow, functional weights, dicts and custom modules do not matter. What is found is only a proposal; groups.py checks it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from autoslim import operations
from autoslim.inputs import Inputs, call, tensors
from autoslim.labels import FIXED, Found, Ledger, Sheets, Site, names, varying, vector
from autoslim.layers import CELLS, RECURRENT, stepwise

LEAVES = "its channels leave the model as output"


def follow(model: nn.Module, example: Inputs, balanced: bool = False, normed: bool = False) -> Found:
    """Run ``model`` once on ``example``. Hooks are removed again; nothing is changed. ``balanced``: grouped convolutions lose the
    same channels in each group, as a channel shuffle needs, instead of whole groups. ``normed``: LayerNorms take their statistics over the
    channels that stay."""
    flow = Flow(model, balanced, normed)
    with torch.no_grad(), stepwise(), flow.watching(model):
        with flow:
            output = call(model, example)
        for tensor in tensors(output):
            flow.ledger.freeze(flow.of(tensor), LEAVES)
    return flow.found


class Flow(TorchDispatchMode):
    """The dispatch mode; see the module."""

    def __init__(self, model: nn.Module, balanced: bool = False, normed: bool = False) -> None:
        super().__init__()
        self.balanced, self.normed = balanced, normed
        self.ledger = Ledger()
        self.found = Found(self.ledger)
        self.sheets = WeakTensorKeyDictionary()
        self.state = WeakTensorKeyDictionary()
        self.stack: list[str] = [""]
        self.paused = 0
        self.place(model)

    # -- labels of the state ---------------------------------------------------------------------------------------------

    def place(self, model: nn.Module) -> None:
        """Give labels to every axis of every parameter and buffer, and to the two axes of every recurrent layer."""
        inside = {id(value) for module in model.modules() if recurrent(module) for value in module.parameters()}
        owners: dict[int, list[tuple[str, str]]] = {}
        values: dict[int, Tensor] = {}
        for name, module in model.named_modules():
            for attribute, value in [*module._parameters.items(), *module._buffers.items()]:
                if value is not None and id(value) not in inside:
                    owners.setdefault(id(value), []).append((name, attribute))
                    values[id(value)] = value
            if recurrent(module):
                for axis, size in ((-1, module.input_size), (-2, module.hidden_size)):
                    self.site(((name, "rnn"),), axis, size)
        for key, value in values.items():
            self.state[value] = tuple(owners[key])
            self.sheets[value] = [
                vector(self.site(tuple(owners[key]), axis, size), axis, value.shape) for axis, size in enumerate(value.shape) if size > 1
            ]

    def site(self, owners: tuple[tuple[str, str], ...], axis: int, size: int) -> Tensor:
        """New labels, (size,), of the axis of a tensor that ``owners`` hold."""
        labels = self.ledger.fresh(size)
        self.found.sites.append(Site(owners, axis, int(labels[0]), size))
        return labels

    def of(self, tensor: Any) -> Sheets:
        return self.sheets.get(tensor, []) if isinstance(tensor, Tensor) else []

    def give(self, tensor: Any, sheets: Sheets) -> None:
        if isinstance(tensor, Tensor):
            self.sheets[tensor] = [sheet for sheet in sheets if sheet.shape == tensor.shape and varying(sheet)]

    # -- modules -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Know which module runs, and treat recurrent layers as a whole."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self.enter(name)))
            handles.append(module.register_forward_hook(self.leave(name), with_kwargs=True, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def enter(self, name: str) -> Callable:
        """A pre-hook that says which module runs; inside recurrent layers nothing is labelled."""

        def hook(module: nn.Module, args: tuple) -> None:
            self.stack.append(name)
            self.paused += recurrent(module)

        return hook

    def leave(self, name: str) -> Callable:
        """The hook that ends what :meth:`enter` began, and treats a recurrent layer as one operation."""

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if self.stack[-1] == name:
                self.stack.pop()
            if recurrent(module):
                self.paused -= 1
                self.recur(name, module, [*tensors(args), *tensors(kwargs)], tensors(output))

        return hook

    def recur(self, name: str, module: nn.Module, given: list[Tensor], made: list[Tensor]) -> None:
        """A recurrent layer: reads its inputs, and every state and output has the same hidden units."""
        read, hidden = (
            torch.arange(site.start, site.start + site.size)
            for axis in (-1, -2)
            for site in self.found.sites
            if site.owners == ((name, "rnn"),) and site.axis == axis
        )
        self.found.used.update((name, attribute) for attribute in module._parameters)
        self.read(read)
        self.found.writes.update(hidden.tolist())
        for index, tensor in enumerate(value for value in given if value.is_floating_point()):
            labels = read if index == 0 else hidden
            if tensor.dim() and tensor.shape[-1] == len(labels):
                self.meet(tensor, vector(labels, -1, tensor.shape))
        for tensor in made:
            if tensor.dim() and tensor.is_floating_point() and tensor.shape[-1] % module.hidden_size == 0:
                times = tensor.shape[-1] // module.hidden_size
                self.give(tensor, [vector(hidden.repeat(times), -1, tensor.shape)])

    def read(self, labels: Tensor) -> None:
        self.found.reads.update(names(labels))

    def meet(self, tensor: Tensor, sheet: Tensor) -> None:
        """Join what ``tensor`` carries with ``sheet``, which is as long; unlabelled numbers are of fixed size."""
        own = [known for known in self.of(tensor) if varying(known) & varying(sheet)]
        for known in own or [torch.tensor(FIXED)]:
            self.ledger.join(known, sheet)

    # -- operations --------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.paused:
            return output
        given = tensors((args, kwargs))
        for tensor in given:
            if tensor in self.state:
                self.found.used.update(self.state[tensor])
        if any(self.of(tensor) for tensor in given):
            self.treat(func, args, kwargs, output)
        return output

    def treat(self, func: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """What one operation does to labels; channels that go through an operation without a rule stay."""
        given, made = tensors((args, kwargs)), tensors(output)
        act = operations.rule(func)
        if act is None:
            for tensor in given:
                self.ledger.freeze(self.of(tensor), f"its channels go through {func.overloadpacket}, for which there is no rule")
            return
        act(self, func, args, kwargs, output)
        if given and all(tensor in self.state for tensor in given):
            owners = tuple(dict.fromkeys(owner for tensor in given for owner in self.state[tensor]))
            for tensor in made:
                if tensor not in self.state:
                    self.state[tensor] = owners


def recurrent(module: nn.Module) -> bool:
    return isinstance(module, (*RECURRENT, *CELLS))
