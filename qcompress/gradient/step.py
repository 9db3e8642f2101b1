"""One node of the forward pass as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from qcompress.gradient.broadcasting import unbroadcast
from qcompress.gradient.tape import NoGradientError, Tape, Tensor
from qcompress.graph import Node, Value
from qcompress.graph.edit import (
    constant_array,
    float_attribute,
    int_attribute,
    ints_attribute,
    string_attribute,
)

Gradients = Mapping[int, Tensor]
"""Number of an input -> gradient of the loss with respect to it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A node, the gradients of its outputs (None: the loss does not depend on it), and the inputs whose gradient is wanted."""

    tape: Tape
    node: Node
    upstream: Sequence[Tensor | None]
    wanted: Collection[Value]

    @property
    def gradient(self) -> Tensor:
        """The gradient of the first output.

        Raises:
            NoGradientError: the loss depends on another output.
        """
        first = self.upstream[0]
        if first is None or any(item is not None for item in self.upstream[1:]):
            raise NoGradientError("has no rule for its further outputs")
        return first

    def needs(self, index: int) -> bool:
        """Whether the gradient of an input is wanted."""
        return self.has(index) and self.node.inputs[index] in self.wanted

    def has(self, index: int) -> bool:
        """Whether the optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> Tensor:
        """An input that is there."""
        value = self.node.inputs[index]
        if value is None:
            raise NoGradientError(f"has no input {index}")
        return self.tape.tensor(value)

    def output(self, index: int = 0) -> Tensor:
        """An output."""
        return self.tape.tensor(self.node.outputs[index])

    def numbers(self, index: int) -> tuple[int, ...] | None:
        """The integers that an input holds, () where it is not there, None where they are known at run time only."""
        if not self.has(index):
            return ()
        array = constant_array(self.node.inputs[index])
        return None if array is None else tuple(int(item) for item in array.reshape(-1))

    def numbers_of_floats(self, index: int) -> tuple[float, ...] | None:
        """The floats that an input holds, () where it is not there, None where they are known at run time only."""
        if not self.has(index):
            return ()
        array = constant_array(self.node.inputs[index])
        return None if array is None else tuple(float(item) for item in array.reshape(-1))

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int_attribute(self.node, name, default)

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        return float_attribute(self.node, name, default)

    def integers(self, name: str) -> tuple[int, ...]:
        """An attribute that lists integers, () where it is not there."""
        return ints_attribute(self.node, name)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return string_attribute(self.node, name, default)

    def axis(self, default: int, name: str = "axis") -> int:
        """The attribute ``axis`` as a number from 0, of the first input."""
        axis = self.integer(name, default)
        return axis if axis >= 0 else axis + self.input(0).rank

    def elementwise(self, partial: Callable[[int], Tensor]) -> Gradients:
        """Gradients of broadcast inputs; ``partial(index)`` is the input's gradient in the shape of the output."""
        found = {}
        for index in range(len(self.node.inputs)):
            if self.needs(index):
                found[index] = unbroadcast(partial(index), self.input(index), self.output())
        return found


Rule = Callable[[Step], Gradients]
"""The gradients of a node's inputs from those of its outputs, for the inputs that ``needs`` names."""
