"""Hints from inside the original: features and attention maps at places that both networks have.

Feature hints: Romero et al. 2015, FitNets, https://arxiv.org/abs/1412.6550, eq. 3. Attention hints: maps of convolutions by Zagoruyko &
Komodakis 2017, https://arxiv.org/abs/1612.03928, eq. 2; the maps of attention itself where it tells them (attention.py); other sequences by
the relation between their positions, as MiniLM does with the values of attention (Wang et al. 2020, https://arxiv.org/abs/2002.10957, eq.
4), which does not mind a narrower width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim import attention as maps_of_attention
from autoslim import surgery
from autoslim.blocks import Skip
from autoslim.engine import Draft
from autoslim.errors import Untreatable
from autoslim.inputs import Inputs, call, tensors
from autoslim.layers import CONVOLUTIONS, COUNTED, TRANSPOSED

#: places that are compared, at most, evenly spread over the network
PLACES = 4


@dataclass(frozen=True)
class Place:
    """A module that both networks have, and how its outputs are compared: the ``axis`` of its channels, and where the student has fewer of
    them, ``kept`` (indices of the original's that are left) or ``bridge`` (a learnt map to all of the original's, a 1 x 1 convolution).
    ``form``: what the other axes are, a "map", a "sequence" of positions, or nothing, a "vector"."""

    name: str
    axis: int
    form: str
    kept: Tensor | None = None
    bridge: nn.Linear | None = None

    def features(self, mine: Tensor, theirs: Tensor) -> Tensor:
        """Squared error of the student's features, in units of the original's mean square."""
        mine, theirs = mine.movedim(self.axis, -1), theirs.movedim(self.axis, -1)
        theirs = theirs if self.kept is None else theirs[..., self.kept]
        mine = mine if self.bridge is None else self.bridge(mine)
        return F.mse_loss(mine, theirs) / theirs.square().mean().clamp_min(1e-12)

    def attention(self, mine: Tensor, theirs: Tensor) -> Tensor | None:
        """Distance of the attention maps; None for outputs without positions."""
        if self.form == "vector":
            return None
        mine, theirs = (one.movedim(self.axis, -1).flatten(1, -2) for one in (mine, theirs))
        return relations(mine, theirs) if self.form == "sequence" else maps(mine, theirs)


def maps(mine: Tensor, theirs: Tensor) -> Tensor:
    """(samples, positions, channels), twice -> the mean distance of the normalised sums of squares over channels (Zagoruyko, eq. 2)."""
    own, other = (F.normalize(one.square().sum(-1), dim=1) for one in (mine, theirs))
    return (own - other).norm(dim=1).mean()


def relations(mine: Tensor, theirs: Tensor) -> Tensor:
    """(samples, positions, channels), twice -> the divergence of the relations between positions, softmax(F F^T / sqrt(channels))."""
    own, other = (F.log_softmax(one @ one.transpose(1, 2) / one.shape[-1] ** 0.5, -1) for one in (mine, theirs))
    return F.kl_div(own, other, reduction="none", log_target=True).sum(-1).mean()


@dataclass(frozen=True)
class Seen:
    """What a network gave at its places, and the attention maps that it told, by module."""

    outputs: Mapping[str, Tensor]
    maps: Mapping[str, Tensor] = field(default_factory=dict)


class Hints:
    """The places of a student and its original, and the weights of both kinds of hints. ``told``: modules whose attention maps both tell.
    ``parameters``: those of the bridges, to be learnt."""

    def __init__(self, places: Sequence[Place], features: float, attention: float, told: Sequence[str] = ()) -> None:
        self.places, self.features, self.attention, self.told = tuple(places), features, attention, tuple(told)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.places)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for place in self.places if place.bridge is not None for parameter in place.bridge.parameters()]

    def __bool__(self) -> bool:
        return bool(self.places or self.told)

    @contextmanager
    def seen(self, model: nn.Module) -> Iterator["Seen"]:
        """Within it, what :meth:`loss` compares is collected while the model runs."""
        with seen(model, self.names) as outputs, maps_of_attention.watched(model, self.told) as maps:
            yield Seen(outputs, maps)

    def loss(self, mine: "Seen", theirs: "Seen") -> Tensor:
        """The weighted sum of the means over places; attention's own maps take the place of relations between positions."""
        pairs = [(place, mine.outputs[place.name].float(), theirs.outputs[place.name].float()) for place in self.places]
        total = torch.zeros(())
        if self.features and pairs:
            total = total + self.features * torch.stack([place.features(own, other) for place, own, other in pairs]).mean()
        found: list[Tensor | None] = []
        if self.attention:
            found = [maps_of_attention.divergence(mine.maps[name], theirs.maps[name]) for name in self.told]
            found += [place.attention(own, other) for place, own, other in pairs if not (self.told and place.form == "sequence")]
        found = [one for one in found if one is not None]
        return total + self.attention * torch.stack(found).mean() if found else total


@contextmanager
def seen(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within it, the outputs of the named modules are collected: {name: first tensor}; a module that runs again is taken at its last run."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[name] = next(iter(tensors(output)), None)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def find(draft: Draft, student: nn.Module, teacher: nn.Module, inputs: Inputs) -> list[Place]:
    """Where the student can be given hints: blocks that it still has, or, without any, layers before the last; :data:`PLACES` at most.

    A place counts if its outputs differ in no axis but that of channels. ``inputs`` fit the bridges to begin with, by least squares.
    """
    both = [name for name, module in student.named_modules() if name and not isinstance(module, Skip) and has(teacher, name)]
    blocks = [name for name in both if name in draft.structure.blocks]
    layers = [name for name in both if isinstance(student.get_submodule(name), COUNTED)][:-1]
    with torch.no_grad(), seen(student, blocks + layers) as mine, seen(teacher, blocks + layers) as theirs:
        call(student, inputs)
        call(teacher, inputs)
    found: list[tuple[str, int]] = []
    for name in blocks + layers:
        own, other = mine.get(name), theirs.get(name)
        axis = None if own is None or other is None else channel_axis(student.get_submodule(name), own, other)
        if axis is not None and not (found and found[0][0] in blocks and name not in blocks):
            found.append((name, axis))
    return [place_of(draft, teacher, name, axis, mine[name], theirs[name]) for name, axis in spread(found)]


def told(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> list[str]:
    """Modules whose attention maps both networks tell, :data:`PLACES` at most."""
    return spread(maps_of_attention.shared(student, teacher, inputs))


def spread(found: list) -> list:
    """:data:`PLACES` of them at most, evenly."""
    return [found[round(i * (len(found) - 1) / max(PLACES - 1, 1))] for i in range(PLACES)] if len(found) > PLACES else found


def has(model: nn.Module, name: str) -> bool:
    return any(name == present for present, _ in model.named_modules())


def channel_axis(module: nn.Module, mine: Tensor, theirs: Tensor) -> int | None:
    """The axis of channels: the one that differs, else by the form of maps and the kind of the module; None where outputs cannot be
    compared."""
    if mine.dim() != theirs.dim() or mine.dim() < 2 or not mine.is_floating_point():
        return None
    unlike = [axis for axis in range(mine.dim()) if mine.shape[axis] != theirs.shape[axis]]
    if unlike:
        return unlike[0] if len(unlike) == 1 and unlike[0] > 0 else None
    if mine.dim() == 4 and (mine.shape[1] == mine.shape[2]) != (mine.shape[2] == mine.shape[3]):
        return 3 if mine.shape[1] == mine.shape[2] else 1  # square maps, channels last or first
    inner = [one for one in module.modules() if isinstance(one, COUNTED)]
    return 1 if inner and isinstance(inner[-1], (*CONVOLUTIONS, *TRANSPOSED)) else mine.dim() - 1


def place_of(draft: Draft, teacher: nn.Module, name: str, axis: int, mine: Tensor, theirs: Tensor) -> Place:
    """How one place is compared: by kept channels where the draft knows them, else over a bridge."""
    form = {2: "vector", 3: "sequence"}.get(theirs.dim(), "map")
    if mine.shape[axis] == theirs.shape[axis]:
        return Place(name, axis, form)
    kept = kept_of(draft, teacher, name, mine.shape[axis], theirs.shape[axis])
    if kept is not None:
        return Place(name, axis, form, kept=kept)
    return Place(name, axis, form, bridge=bridge_of(mine.movedim(axis, -1), theirs.movedim(axis, -1)))


def kept_of(draft: Draft, teacher: nn.Module, name: str, width: int, whole: int) -> Tensor | None:
    """The channels that a module's outputs kept of the original's ``whole``, told by the layers in it that were cut so; None where they
    do not agree."""
    found = []
    for (module, axis), kept in draft.kept.items():
        inside = module == name or module.startswith(name + ".")
        if inside and axis == "out" and len(kept) == width and size_of(teacher, module) == whole:
            found.append(kept)
    return found[0] if found and all(torch.equal(found[0], one) for one in found) else None


def size_of(teacher: nn.Module, name: str) -> int | None:
    """How many channels a module of the original gives; None where it has none, or where there is no such module."""
    try:
        return surgery.axis_size(teacher.get_submodule(name), "out")
    except (Untreatable, AttributeError):
        return None


def bridge_of(mine: Tensor, theirs: Tensor) -> nn.Linear:
    """A linear map from the student's channels to the original's, (..., channels) each, fitted to what both gave."""
    x, y = (one.detach().reshape(-1, one.shape[-1]).double() for one in (mine, theirs))
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    fitted = torch.linalg.lstsq(x, y, driver="gelsd").solution
    bridge = nn.Linear(mine.shape[-1], theirs.shape[-1])
    bridge.weight.data.copy_(fitted[:-1].t())
    bridge.bias.data.copy_(fitted[-1])
    return bridge
