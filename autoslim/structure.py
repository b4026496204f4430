"""What a model is made of, as plain values: layers, coupled groups, residual blocks, and what is left out and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Axis = Literal["out", "in", "hidden"]


@dataclass(frozen=True)
class Layer:
    """One weighted module that ran on the example. Counts are for one sample (a batch of one).

    ``kind`` is the class name; ``out`` the number of output channels; ``kernel`` the convolution's kernel size, () otherwise.
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


@dataclass(frozen=True)
class Member:
    """One axis of one module that shrinks with a group. ``positions[c]`` are the indices that root channel c owns."""

    module: str
    axis: Axis
    positions: tuple[tuple[int, ...], ...]


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
        return tuple(member.module for member in self.members if member.axis != "in")


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
    those of no layer included; ``macs`` what the layers sum up to."""

    layers: Mapping[str, Layer]
    groups: Mapping[str, Group]
    blocks: Mapping[str, Block]
    tied: tuple[tuple[str, ...], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    not_counted: tuple[str, ...] = ()
    params: int = 0

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())
