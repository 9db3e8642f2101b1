"""What the rules write into: positions of tensors, roles of weights, and the numbers of the graph that say shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from qcompress.graph import Node, Value
from qcompress.graph.edit import constant_array, ints_attribute, is_constant
from qcompress.structure.positions import At, Positions

LONGEST_SHAPE = 64
"""Constants of integers with more elements are data, not shapes."""

AT_RUN_TIME = "its shape is computed at run time"


class Role(Enum):
    """What an axis of a weight is to the channels along it."""

    PRODUCER = "outputs"
    CONSUMER = "summed"


Choice = tuple[Node, int]
"""A change of shape, and the number of one of its factors."""

Key = tuple[Node, int | str, int, tuple[Node, int] | None]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a number of a shape stands: element ``element`` of the constant (or attribute) ``place`` of a node.

    ``reader``: the node and input for which the node, a Concat, can be written once more; None where all that read the
    number get the new one.
    """

    node: Node
    place: int | str
    values: tuple[int, ...]
    element: int
    reader: tuple[Node, int] | None = None

    @property
    def key(self) -> Key:
        """What makes it the same slot."""
        return self.node, self.place, self.element, self.reader


@dataclass(frozen=True, slots=True)
class Element:
    """One integer of a shape: the constant ``number``, or the size of an axis.

    ``fixed``: whether it is the same in every run. ``slot``: where it can be rewritten, None where that is not known yet.
    """

    number: int
    dim: At | None = None
    fixed: bool = True
    slot: Slot | None = None


Vector = tuple[Element, ...]


class Trace(Positions):
    """Positions, and what more must be known of a graph: see the module.

    ``refused``: factors of changes of shape that are not to be cut. ``chosen``: those that are, with their axes. ``roles``: what
    axes of weights are. ``follows``: numbers that are the size of an axis, divided by something. ``left_out``: inputs that
    nodes do without once an axis is cut.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], refused: Collection[Choice] = ()) -> None:
        super().__init__(shapes)
        self.refused = refused
        self.chosen: dict[Choice, At] = {}
        self.roles: dict[At, set[Role]] = {}
        self.follows: dict[Key, tuple[Slot, At, int]] = {}
        self.left_out: list[tuple[Node, int, At]] = []
        self._vectors: dict[Value, Vector] = {}
        self._frozen: set[Key] = set()
        self._steady: set[At] = set()
        self._consumed: set[tuple[Node, int]] = set()

    def produce(self, weight: Value, axis: int, output: At) -> None:
        """The axis of a weight makes an output axis."""
        self.tie((weight, axis), output)
        self.mark_producer((weight, axis))

    def consume(self, weight: Value, axis: int, source: At) -> None:
        """The axis of a weight is summed over with an input axis."""
        self.tie(source, (weight, axis))
        self.mark_consumer((weight, axis))

    def stored(self, at: At) -> At | None:
        """The axis of an initializer that an axis of a constant is, through Transpose, Cast and Identity; None for others."""
        value, axis = self._plain(at)
        node = value.producer()
        if node is None:
            return (value, axis) if is_constant(value) else None
        if node.domain or node.op_type not in ("Transpose", "Cast", "Identity") or node.inputs[0] is None:
            return None
        if node.op_type == "Transpose":
            order = ints_attribute(node, "perm") or tuple(reversed(range(self.rank(value))))
            axis = order[axis]
        return self.stored((node.inputs[0], axis))

    def is_weight(self, value: Value) -> bool:
        """Whether a tensor is an initializer, perhaps transposed."""
        return self.rank(value) > 0 and self.stored((value, 0)) is not None

    def mark_consumer(self, at: At) -> None:
        """Say that an axis of a weight is summed over."""
        self._give_role(at, Role.CONSUMER)

    def mark_producer(self, at: At) -> None:
        """Say that an axis of a weight makes output channels."""
        self._give_role(at, Role.PRODUCER)

    def _give_role(self, at: At, role: Role) -> None:
        stored = self.stored(at)
        if stored is None:
            self.block(at, "the weight is computed by other nodes")
        else:
            self.roles.setdefault(stored, set()).add(role)

    def tie(self, one: At, other: At, of_one: np.ndarray | None = None, of_other: np.ndarray | None = None) -> None:
        """As for positions; that a size is the same in every run goes with it."""
        super().tie(one, other, of_one, of_other)
        if of_one is None and of_other is None:
            for source, target in ((one, other), (other, one)):
                if self.is_steady(source):
                    self._steady.add(self._plain(target))

    def steady(self, at: At) -> None:
        """Say that the size of an axis is the same in every run."""
        self._steady.add(self._plain(at))

    def is_steady(self, at: At) -> bool:
        """Whether the size of an axis is known to be the same in every run: that of constants, and what they make."""
        return is_constant(at[0]) or self._plain(at) in self._steady

    def vector(self, value: Value | None) -> Vector | None:
        """The numbers of a traced shape or of a small integer constant, None for any other tensor."""
        if value is None:
            return None
        if value in self._vectors:
            return self._vectors[value]
        small = value.const_value is not None and value.const_value.size <= LONGEST_SHAPE
        array = constant_array(value) if small else None
        if array is None or array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
            return None
        return tuple(Element(int(number)) for number in array.reshape(-1))

    def is_traced(self, value: Value | None) -> bool:
        """Whether a tensor holds sizes of other tensors."""
        return value in self._vectors

    def set_vector(self, value: Value, vector: Sequence[Element]) -> None:
        """Say what numbers a tensor holds."""
        self._vectors[value] = tuple(vector)

    def take(self, node: Node, index: int) -> Vector | None:
        """The numbers that a node passes on."""
        self._consumed.add((node, index))
        return self.vector(node.inputs[index])

    def placed(self, node: Node, index: int) -> Vector | None:
        """The numbers that a node reads as a shape, each with the slot where it can be rewritten, where there is one."""
        value = node.inputs[index] if index < len(node.inputs) else None
        vector = self.vector(value)
        if vector is None:
            return None
        self._consumed.add((node, index))
        if not all(element.fixed for element in vector):
            return vector
        numbers = tuple(element.number for element in vector)
        return tuple(replace(item, slot=Slot(node, index, numbers, place)) for place, item in enumerate(vector))

    def follow_shape(self, node: Node, index: int, place: int, at: At) -> None:
        """Let the element ``place`` of a shape that a node reads be the size of an axis, whatever is cut."""
        vector = self.placed(node, index)
        if vector is None or place >= len(vector):
            self.block(at, f"{label(node)}: {AT_RUN_TIME}")
            return
        element = vector[place]
        if element.number != self.size(at):
            self.block(at, f"{label(node)}: {AT_RUN_TIME}")
        elif element.slot is not None:
            self.follow(_own(element.slot, node, index), at)
        elif element.dim is not None:
            self.tie(element.dim, at)
        else:
            self.block(at, f"{label(node)}: {AT_RUN_TIME}")

    def follow(self, slot: Slot, at: At, divisor: int = 1) -> None:
        """Let a number be the size of an axis, divided by ``divisor``, whatever is cut."""
        if slot.key in self._frozen:
            self.block(at, f"{label(slot.node)}: other nodes read the number of channels")
        elif slot.key in self.follows:
            self.tie(self.follows[slot.key][1], at)
        else:
            self.follows[slot.key] = (slot, at, divisor)

    def leave_out(self, node: Node, index: int, at: At) -> None:
        """Let a node do without an optional input once an axis is cut."""
        self.left_out.append((node, index, at))

    def end_of(self, node: Node) -> None:
        """Let sizes stay that a node read and that its rule did not care for."""
        for index, value in enumerate(node.inputs):
            if value in self._vectors and (node, index) not in self._consumed:
                self.freeze(value, node)

    def freeze(self, value: Value, node: Node) -> None:
        """Let the numbers that a tensor holds stay what they are, since a node computes with them."""
        for element in self._vectors.get(value, ()):
            if element.dim is not None:
                self.block(element.dim, f"{label(node)} computes with its size")
            if element.slot is not None:
                self._frozen.add(element.slot.key)
                if element.slot.key in self.follows:
                    self.block(self.follows[element.slot.key][1], f"{label(node)} computes with its size")


def _own(slot: Slot, node: Node, index: int) -> Slot:
    """The slot for one reader alone, when that reads the very Concat the number stands at."""
    value = node.inputs[index]
    own = value is not None and value.producer() is slot.node and slot.node is not node
    return replace(slot, reader=(node, index)) if own else slot


def label(node: Node) -> str:
    """A node as reasons name it."""
    return f"{node.op_type} {node.name!r}"
