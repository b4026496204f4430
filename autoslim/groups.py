"""Which layers lose channels together: the flow of channels first (flow.py), Torch-Pruning's graph where that fails.

Whatever a rule proposes is only a hypothesis. It is believed when the law of :func:`lawful` holds on the example: the model
with the group's channels cut out computes what the model computes whose consumers ignore those channels. A wrong group,
whoever found it, therefore becomes a line of the coverage report and never a broken model.
"""

import copy
import ctypes
import logging
import threading
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoslim import coupling, flow, normalising, operations, surgery
from autoslim.errors import Untreatable
from autoslim.inputs import Inputs, call, close, split
from autoslim.layers import CONVOLUTIONS, RECURRENT, stepwise
from autoslim.structure import Group, Layer, Member

TOLERANCE = 1e-3
log = logging.getLogger(__name__)


class TimedOut(Exception):
    """Raised inside a block that ran longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimedOut in this thread after ``seconds``; works in any thread for code that runs Python bytecode."""
    ident, done = threading.get_ident(), threading.Event()

    def fire() -> None:
        if not done.is_set():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(TimedOut))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        done.set()
        timer.cancel()


@dataclass
class Findings:
    """``groups``: {name: Group}; ``left_out``: {layer: why its channels stay}; ``used``: (module, attribute) of every tensor of the
    state that took part, None if unknown; counts for people; and the moment (time.monotonic) when the checks end."""

    end: float
    groups: dict[str, Group] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    used: set[tuple[str, str]] | None = None
    proposed: int = 0
    refuted: int = 0
    unchecked: int = 0
    checks: int = 0

    def __str__(self) -> str:
        left = f", {self.unchecked} not checked in time" if self.unchecked else ""
        return f"{self.proposed} groups proposed, {len(self.groups)} hold, {self.refuted} do not{left}; {self.checks} checks"

    @property
    def covered(self) -> set[str]:
        """The modules whose outputs some group cuts."""
        return {member.module for group in self.groups.values() for member in group.members if not member.reads}


def find(model: nn.Module, example: Inputs, layers: dict[str, Layer], seconds: float = 20.0) -> Findings:
    """The groups of ``model``, which is in eval mode and is not changed."""
    found = Findings(time.monotonic() + seconds)
    proposals, trouble = by_flow(model, example, found)
    if trouble:
        proposals, also = by_torch_pruning(traceable(model), example, max(1.0, found.end - time.monotonic()))
        trouble = "; ".join(part for part in (trouble, also) if part)
        known = {name for group in proposals for name in group.producers}
        proposals += by_sequence(model, [layer for layer in layers.values() if layer.name not in known], layers)
    believe(model, example, [named(group, layers) for group in proposals], found)
    torn = coupling.UNEVEN in found.left_out.values() or found.refuted
    if torn and any(isinstance(part, CONVOLUTIONS) and 1 < part.groups < part.in_channels for part in model.modules()):
        others, _ = by_flow(model, example, found, balanced=True)
        believe(model, example, [named(group, layers) for group in others if found.covered.isdisjoint(group.producers)], found)
    log.info("%s", found)
    if operations.NORMED in found.left_out.values():
        others, _ = by_flow(model, example, found, normed=True)
        believe(model, example, [named(group, layers) for group in others if residual(model, group, found.covered)], found)
    reasons, covered = found.left_out, found.covered
    found.left_out = {
        layer.name: reasons.get(layer.name) or trouble or why_alone(model, layer) for layer in layers.values() if layer.name not in covered
    }
    return found


def traceable(model: nn.Module) -> nn.Module:
    """A copy whose parameters all have gradients, which Torch-Pruning's tracer needs."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return model


def residual(model: nn.Module, group: Group, covered: Collection[str]) -> bool:
    """Whether a group is new and a LayerNorm takes statistics over it, as over the residual stream of a Transformer."""
    return covered.isdisjoint(group.producers) and any(
        isinstance(model.get_submodule(member.module), nn.LayerNorm) and member.axis == "out" for member in group.members
    )


def by_flow(model: nn.Module, example: Inputs, found: Findings, balanced: bool = False, normed: bool = False) -> tuple[list[Group], str]:
    """(groups proposed by the flow of channels through one run, why there are none)."""
    seconds = max(1.0, found.end - time.monotonic())
    try:
        with time_limit(seconds):
            seen = flow.follow(model, example, balanced, normed)
            found.used = seen.used
            return coupling.propose(model, seen, found.left_out), ""
    except TimedOut:
        return [], f"following the channels took longer than {seconds:.3g} s"
    except Exception as error:  # a stranger's model below a dispatch mode: any failure means "no proposal"
        log.info("the flow of channels was not found", exc_info=True)
        return [], f"the flow of channels was not found ({type(error).__name__}: {' '.join(str(error).split())[:120]})"


def named(group: Group, layers: dict[str, Layer]) -> Group:
    """The group under the name of its first producer in the order of execution."""
    ran = [name for name in group.producers if name in layers]
    return replace(group, name=min(ran, key=lambda name: layers[name].order)) if ran else group


def why_alone(model: nn.Module, layer: Layer) -> str:
    """Why no group was proposed for a layer, in words."""
    if layer.out == 1:
        return "it has a single channel"
    if layer.groups > 1:
        return "grouped convolution: its channels cannot be cut one by one"
    return "no rule found which layers its channels are coupled with"


def by_torch_pruning(model: nn.Module, example: Inputs, seconds: float) -> tuple[list[Group], str]:
    """(groups proposed by Torch-Pruning's DependencyGraph (Fang et al. 2023, arXiv 2301.12900), why it proposed none)."""
    import torch_pruning as tp

    roots = [*CONVOLUTIONS, nn.Linear]
    try:
        args, kwargs = split(example)
        data = kwargs if kwargs else args if len(args) > 1 else args[0]
        with time_limit(seconds), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(model, example_inputs=data)
            found = list(graph.get_all_groups(ignored_layers=[], root_module_types=roots))
    except TimedOut:
        return [], f"Torch-Pruning took longer than {seconds:g} s"
    except Exception as error:  # a third party's tracer on a stranger's model: any failure means "no proposal"
        log.info("Torch-Pruning found no groups", exc_info=True)
        return [], f"Torch-Pruning failed ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    names = {module: name for name, module in model.named_modules()}
    return [group for group in (translate(raw, names) for raw in found) if group is not None], ""


def translate(raw: Any, names: dict[nn.Module, str]) -> Group | None:
    """A Torch-Pruning group of all channels of its root -> plain data; None if it holds something that we cannot cut."""
    size = len(raw[0].idxs)
    spots: dict[tuple[str, str], list[set[int]]] = {}
    for item in raw:
        module = item.dep.target.module
        kind = type(module).__name__
        if kind.startswith("_") and module not in names:
            continue  # Torch-Pruning's place-holders for element-wise, concat, reshape operations
        if module not in names:
            return None
        axis = "in" if "in_channels" in item.dep.handler.__name__ else "out"
        if surgery.is_depthwise(module) or not hasattr(module, "in_channels") and not hasattr(module, "in_features"):
            axis = "out"
        table = spots.setdefault((names[module], axis), [set() for _ in range(size)])
        for local, root in zip(item.idxs, item.root_idxs, strict=True):
            table[root].add(int(local))
    members = tuple(Member(name, axis, tuple(tuple(sorted(s)) for s in table)) for (name, axis), table in sorted(spots.items()))
    return Group(names[raw[0].dep.target.module], size, members, "torch-pruning")


def by_sequence(model: nn.Module, left: list[Layer], layers: dict[str, Layer]) -> list[Group]:
    """Own rule: a layer and the next one that runs, if the sizes fit, such as a feed-forward pair or a GRU and its head.

    Needs no tracer, only the order of execution; the law decides which of these guesses are true.
    """
    ordered = sorted(layers.values(), key=lambda layer: layer.order)
    proposals = []
    for layer in left:
        following = [other for other in ordered if other.order > layer.order]
        recurrent = isinstance(model.get_submodule(layer.name), RECURRENT)
        for consumer in following[:3]:
            proposal = pair(model, layer, consumer, "recurrent pair" if recurrent else "consecutive pair")
            if proposal is not None:
                proposals.append(proposal)
                break
    return proposals


def pair(model: nn.Module, layer: Layer, consumer: Layer, rule: str) -> Group | None:
    """``layer``'s outputs feed only ``consumer``: each channel once, or once per direction of a bidirectional layer."""
    if layer.groups > 1 or consumer.groups > 1 or layer.out < 2 or consumer.inputs % layer.out:
        return None
    times = consumer.inputs // layer.out
    recurrent = isinstance(model.get_submodule(layer.name), RECURRENT)
    if times > (2 if recurrent else 1):
        return None
    own = tuple((c,) for c in range(layer.out))
    read = tuple(tuple(c + layer.out * side for side in range(times)) for c in range(layer.out))
    members = (Member(layer.name, "hidden" if recurrent else "out", own), Member(consumer.name, "in", read))
    return Group(layer.name, layer.out, members, rule)


def believe(model: nn.Module, example: Inputs, proposals: list[Group], found: Findings) -> None:
    """Take the proposals for which the law holds, tried together first and by halves where they fail together, until time is
    up. Each gets a name of its own: that of another producer where the first is taken."""
    found.proposed += len(proposals)
    waiting = [sorted(proposals, key=lambda group: -group.size)] if proposals else []
    while waiting:
        some = waiting.pop(0)
        producers = {name for group in some for name in group.producers}
        if found.checks and time.monotonic() > found.end:
            found.unchecked += len(some)
            found.left_out |= dict.fromkeys(producers - found.left_out.keys(), "its channels were not checked within the time limit")
            continue
        found.checks += 1
        why = lawful(model, example, some)
        if why is None:
            for group in some:
                free = [name for name in (group.name, *group.producers) if name not in found.groups]
                if free:
                    found.groups[free[0]] = replace(group, name=free[0])
        elif len(some) == 1:
            found.refuted += 1
            found.left_out |= dict.fromkeys(producers, why)
        else:
            middle = len(some) // 2
            waiting += [some[:middle], some[middle:]]


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the tensors, which may be replaced in it and not written to."""
    shared = {id(value): value for value in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def repeatable(model: nn.Module, example: Inputs) -> Any:
    """The output with a fixed random state, for models that draw noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return call(model, example)


def lawful(model: nn.Module, example: Inputs, groups: list[Group]) -> str | None:
    """None if cutting some channels of every group equals silencing their consumers, LayerNorms taking statistics over what stays;
    otherwise what went wrong."""
    try:
        silenced, cut = skeleton(model), skeleton(model)
        chosen = []
        for group in groups:
            gone = torch.arange(0, group.size, max(2, group.size // 4))
            surgery.silence(silenced, group, gone)
            chosen.append((group, torch.tensor(sorted(set(range(group.size)) - set(gone.tolist())))))
        kept = surgery.plan(chosen, cut)
        surgery.apply(cut, kept)
        with torch.no_grad(), stepwise():
            with normalising.over(silenced, kept):
                expected = repeatable(silenced, example)
            got = repeatable(cut, example)
        if not close(got, expected, TOLERANCE):
            return "its channels are read somewhere that no rule accounts for, or leave the model as output"
    except Untreatable as error:
        return str(error)
    except Exception as error:  # a stranger's model with other shapes than its author had in mind: any failure is a reason
        return f"its channels cannot be cut ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return None
