"""What rules write gradients with: tensors that are added and multiplied, and the nodes this makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompress.gradient.facts import Dims, Facts
from qcompress.graph import Model, Value
from qcompress.graph.edit import AttributeValue, Editor
from qcompress.types import Array

PREFIX = "qcompress/gradient/"
"""How the names of added tensors start."""

INT64 = "int64"


class NoGradientError(Exception):
    """A rule does not cover this node; the text says why, after the node's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor of the graph in a formula; ``dims``: what is known of its shape, None where not even the rank is."""

    tape: Tape
    value: Value
    dtype: str
    dims: Dims | None = None

    @property
    def rank(self) -> int:
        """The number of axes.

        Raises:
            NoGradientError: it is not known.
        """
        if self.dims is None:
            raise NoGradientError("the rank of a tensor is not known before the model runs")
        return len(self.dims)

    def __add__(self, other: Operand) -> Tensor:
        return self._with("Add", other)

    def __radd__(self, other: float) -> Tensor:
        return self._with("Add", other)

    def __sub__(self, other: Operand) -> Tensor:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Tensor:
        return self.tape.node("Sub", (self.tape.number(other, self.dtype), self))

    def __mul__(self, other: Operand) -> Tensor:
        return self._with("Mul", other)

    def __rmul__(self, other: float) -> Tensor:
        return self._with("Mul", other)

    def __truediv__(self, other: Operand) -> Tensor:
        return self._with("Div", other)

    def __rtruediv__(self, other: float) -> Tensor:
        return self.tape.node("Div", (self.tape.number(other, self.dtype), self))

    def __neg__(self) -> Tensor:
        return self.tape.node("Neg", (self,))

    def __gt__(self, other: Operand) -> Tensor:
        return self._with("Greater", other, "bool")

    def __lt__(self, other: Operand) -> Tensor:
        return self._with("Less", other, "bool")

    def __and__(self, other: Tensor) -> Tensor:
        return self._with("And", other)

    def equals(self, other: Operand) -> Tensor:
        """Whether elements are the same."""
        return self._with("Equal", other, "bool")

    def apply(self, op_type: str) -> Tensor:
        """The tensor through an operator of one input."""
        return self.tape.node(op_type, (self,))

    def where(self, condition: Tensor) -> Tensor:
        """The tensor where the condition holds, 0 elsewhere."""
        return self.tape.node("Where", (condition, self, self.tape.number(0.0, self.dtype)), dtype=self.dtype)

    def sum(self, axes: Sequence[int], keep: bool = True) -> Tensor:
        """The sum along axes; nothing happens without any."""
        if not axes:
            return self
        inputs = (self, self.tape.ints(axes))
        return self.tape.node("ReduceSum", inputs, {"keepdims": int(keep)})

    def reshape(self, shape: Tensor | Sequence[int]) -> Tensor:
        """Another shape; -1 and 0 mean what they mean to Reshape."""
        if not isinstance(shape, Tensor):
            shape = self.tape.ints(shape)
        return self.tape.node("Reshape", (self, shape))

    def transpose(self, order: Sequence[int]) -> Tensor:
        """The axes in another order."""
        if list(order) == sorted(order):
            return self
        return self.tape.node("Transpose", (self,), {"perm": tuple(order)})

    def unsqueeze(self, axes: Sequence[int]) -> Tensor:
        """New axes of length 1."""
        return self.tape.node("Unsqueeze", (self, self.tape.ints(axes))) if axes else self

    def squeeze(self, axes: Sequence[int]) -> Tensor:
        """Without some axes of length 1."""
        return self.tape.node("Squeeze", (self, self.tape.ints(axes)))

    def expand(self, shape: Tensor) -> Tensor:
        """Repeated along axes of length 1."""
        return self.tape.node("Expand", (self, shape))

    def slice(self, start: Tensor, end: Tensor, axes: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Every so many elements from start to end along axes."""
        inputs = (self, start, end, self.tape.ints(axes), self.tape.ints(steps))
        return self.tape.node("Slice", inputs)

    def _with(self, op_type: str, other: Operand, dtype: str | None = None) -> Tensor:
        if not isinstance(other, Tensor):
            other = self.tape.number(other, self.dtype)
        return self.tape.node(op_type, (self, other), dtype=dtype)


Operand = Tensor | float


class Tape:
    """Adds the nodes of the backward pass behind those of a model, in place."""

    def __init__(self, model: Model, facts: Facts) -> None:
        self.graph = model.graph
        self.opset = model.opset
        self.facts = facts
        self.editor = Editor(model.graph)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
        self._shapes: dict[Value, Tensor] = {}
        self._count = 0

    def tensor(self, value: Value) -> Tensor:
        """A tensor of the model."""
        name = value.name or ""
        return Tensor(self, value, self.facts.dtype(name), self.facts.dims(name))

    def node(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, AttributeValue] | None = None,
        dtype: str | None = None,
    ) -> Tensor:
        """A node of one output, which has the element type of the first input unless it is said."""
        return self.nodes(op_type, inputs, attributes, [dtype])[0]

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, AttributeValue] | None,
        dtypes: Sequence[str | None],
    ) -> list[Tensor]:
        """A node of several outputs, one for each element type; None: that of the first input."""
        first = next(item for item in inputs if item is not None)
        names = [self._name(op_type) for _ in dtypes]
        values = [None if item is None else item.value for item in inputs]
        made = self.editor.node_with_outputs(op_type, values, names, attributes)
        producer = made[0].producer()
        if producer is not None:
            self.graph.append(producer)
        return [Tensor(self, value, dtype or first.dtype) for value, dtype in zip(made, dtypes, strict=True)]

    def constant(self, array: Array) -> Tensor:
        """A constant, the same one for the same numbers."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            value = self.editor.constant(self._name("constant"), array)
            self._constants[key] = Tensor(self, value, array.dtype.name, array.shape)
        return self._constants[key]

    def number(self, number: float, dtype: str) -> Tensor:
        """A constant of rank 0."""
        return self.constant(np.asarray(number, dtype))

    def ints(self, numbers: Sequence[int]) -> Tensor:
        """A list of integers, as axes, shapes and repeats are given."""
        return self.constant(np.asarray(list(numbers), np.int64))

    def shape(self, tensor: Tensor) -> Tensor:
        """The shape as a list of integers: a constant if it is known, else taken at run time."""
        dims = fixed(tensor.dims)
        if dims is not None:
            return self.ints(dims)
        if tensor.value not in self._shapes:
            self._shapes[tensor.value] = self.node("Shape", (tensor,), dtype=INT64)
        return self._shapes[tensor.value]

    def extents(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        """The lengths along some axes, as a list."""
        dims = None if tensor.dims is None else fixed(tuple(tensor.dims[axis] for axis in axes))
        if dims is not None:
            return self.ints(dims)
        return self.node("Gather", (self.shape(tensor), self.ints(axes)))

    def concat(self, parts: Sequence[Tensor], axis: int = 0) -> Tensor:
        """Several tensors one behind the other."""
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, {"axis": axis})

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        """The numbers in another element type: float32, float64 or int64."""
        if tensor.dtype == dtype:
            return tensor
        return self.node("Cast", (tensor,), {"to": _CODES[dtype]}, dtype)

    def count(self, limit: Tensor) -> Tensor:
        """The integers from 0 to below ``limit``, an integer of any rank, as a list."""
        zero, one = (self.constant(np.asarray(number, np.int64)) for number in (0, 1))
        return self.node("Range", (zero, limit.reshape([]), one), dtype=INT64)

    def constant_ones(self, count: Tensor) -> Tensor:
        """A list of as many integers 1 as ``count``, a list of one integer, says."""
        return self.ints([1]).expand(count)

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Zeros of the same shape."""
        return self.number(0.0, tensor.dtype).expand(self.shape(tensor))

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum of tensors of one shape."""
        return parts[0] if len(parts) == 1 else self.node("Sum", parts)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{PREFIX}{kind.lower()}/{self._count}"


_CODES = {"float32": 1, "float64": 11, INT64: 7}
"""Element types as Cast's ``to`` wants them (onnx.proto, TensorProto.DataType)."""


def fixed(dims: Dims | None) -> tuple[int, ...] | None:
    """The shape if all of it is known."""
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(dim for dim in dims if isinstance(dim, int))
