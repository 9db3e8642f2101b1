"""What can be cut together: units of channels, the constants and numbers that change with them, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """What belongs to the units of a group along one axis of one constant.

    ``indices``: (units, n), ascending in every row: the positions along ``axis`` that go with each unit. ``nodes``: names of
    the nodes that read the constant. A kernel of a grouped Conv has ``indices`` within the input channels of one group, and
    they mean those channels of every group.
    """

    constant: str
    axis: int
    indices: Array
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """An axis of a tensor between nodes, and how many of its positions go with each unit."""

    tensor: str
    axis: int
    share: int


@dataclass(frozen=True, slots=True)
class Number:
    """A number that says how many channels there are, in an attribute or in a constant that says a shape.

    ``place``: name of the attribute, or index of the input of the node. ``values``: what stands there in the uncut model.
    ``element``: which of ``values`` shrinks. ``share``: by how much for each unit that is removed. ``reader``: name and input of
    the node for which alone it shrinks; None when it is for all that read it.
    """

    node: str
    place: str | int
    values: tuple[int, ...]
    element: int
    share: int
    reader: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Units of which any may be removed as long as one is left; each changes all constants named here in the same way.

    ``name``: the weight of the first producer. ``units``: how many there are. ``producers``: the output axis of weights.
    ``consumers``: the summed axis of weights: the removal of a unit is as good as zeros there. ``others``: biases,
    normalisation, depthwise kernels. ``numbers`` and ``tensors``: what else is as long as the units are many. ``left_out``:
    nodes and inputs that a cut takes away: initial states of zeros.
    """

    name: str
    units: int
    producers: tuple[Slice, ...]
    consumers: tuple[Slice, ...]
    others: tuple[Slice, ...]
    numbers: tuple[Number, ...]
    tensors: tuple[Extent, ...]
    left_out: tuple[tuple[str, int], ...] = ()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Everything that is sliced."""
        return (*self.producers, *self.consumers, *self.others)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A weight whose output channels, or some of them, cannot be cut, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of a model in the order of its nodes; they are independent of each other."""

    groups: tuple[ChannelGroup, ...]
    blocked: tuple[Blocked, ...]

    def __getitem__(self, name: str) -> ChannelGroup:
        """The group of a name.

        Raises:
            KeyError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)
