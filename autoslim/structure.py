"""What a model is made of, as plain values: layers, coupled groups, residual blocks, and what is left out and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: what of a module shrinks: "out", "in" and "hidden" (units of a recurrent layer) of the kinds that surgery.py knows, "heads" of
#: a module that attends, or "NAME:DIM", one dimension of a tensor that the module holds
Axis = str
HEADS = "heads"


@dataclass(frozen=True)
class Layer:
    """One weighted module that ran on the example. Counts are for one sample (a batch of one).

    ``kind`` is the class name; ``out`` the number of output channels; ``kernel`` the convolution's kernel size, () otherwise;
    ``called`` is false where other code reads the weights without calling the module.
    """

    name: str
    kind: str
    params: int
    macs: int
    out: int
    inputs: int
    kernel: tuple[int, ...] = ()
    groups: int = 1
    calls: int = 1
    order: int = 0
    called: bool = True


@dataclass(frozen=True)
class Member:
    """One axis of one module that shrinks with a group. ``positions[c]`` are the indices that root channel c owns; ``reads``
    says that the module reads the group's channels there, and does not write them."""

    module: str
    axis: Axis
    positions: tuple[tuple[int, ...], ...]
    reads: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", self.reads or self.axis == "in")


@dataclass(frozen=True)
class Group:
    """Layers whose channels can only be removed together. ``size`` counts the root's channels.

    ``found_by`` says how: "torch-pruning" or the name of one of our own rules.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    found_by: str

    @property
    def producers(self) -> tuple[str, ...]:
        return tuple(member.module for member in self.members if not member.reads and member.axis != HEADS)

    @property
    def width(self) -> int:
        """The fewest channels of a layer that one root channel stands for: more than one where whole groups are cut."""
        return min((len(member.positions[0]) for member in self.members if not member.reads and member.axis != HEADS), default=1)

    @property
    def kind(self) -> str:
        """ "heads" where whole attention heads are removed, else "channels"."""
        return HEADS if any(member.axis == HEADS for member in self.members) else "channels"


@dataclass(frozen=True)
class Block:
    """A module that is the identity once its weights are zero, so that removing it leaves the shortcut."""

    name: str
    params: int
    macs: int
    as_tuple: bool = False


@dataclass(frozen=True)
class Structure:
    """Everything the techniques need to know about a model; no tensors. ``params`` counts the whole model's parameters,
    those of no layer included; ``macs`` what the layers sum up to; ``own`` the parameters that each module holds itself, and
    ``idle`` those of them that took no part in the run. ``checked`` says how the groups were checked."""

    layers: Mapping[str, Layer]
    groups: Mapping[str, Group]
    blocks: Mapping[str, Block]
    tied: tuple[tuple[str, ...], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    not_counted: tuple[str, ...] = ()
    params: int = 0
    own: Mapping[str, int] = field(default_factory=dict)
    idle: Mapping[str, int] = field(default_factory=dict)
    checked: str = ""

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())
