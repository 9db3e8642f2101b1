"""Properties of cutting attention: heads, groups of heads and hidden units, however an exporter writes the shapes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from cut_models import assert_cut_is_zeros, some_units
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from text_models import draw

from qcompress.calibrate import observe_shapes
from qcompress.graph import Model, load_model
from qcompress.pipeline import prepared_from
from qcompress.structure import find_groups
from qcompress.types import Array

WIDTH, SIZE = 8, 3
SMALL, LARGE = ({"x": draw(f"tokens{batch}", batch, steps, WIDTH)} for batch, steps in ((1, 4), (3, 6)))


class Transformer:
    """Layers of attention and a perceptron, with a residual stream that is normalised; ``choose(n)`` draws a number below n."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.choose = choose
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.units: list[int] = []
        self.joined: dict[tuple[int | str, ...], str] = {}
        stream = "x"
        for _ in range(1 + choose(2)):
            stream = self.normalised(self.node("Add", stream, self.attention(stream)))
            stream = self.normalised(self.node("Add", stream, self.perceptron(stream)))
        self.nodes.append(helper.make_node("Identity", [stream], ["y"], "last"))

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """A node more; returns its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n{len(self.nodes)}", **attributes))
        return name

    def constant(self, array: Array) -> str:
        """A constant more."""
        name = f"w{len(self.constants)}"
        self.constants[name] = array
        return name

    def ints(self, *numbers: int) -> str:
        """Integers; equal ones are one constant."""
        name = "i" + "_".join(map(str, numbers)).replace("-", "m")
        self.constants[name] = np.array(numbers, dtype=np.int64)
        return name

    def product(self, x: str, inputs: int, outputs: int) -> str:
        """A matrix product, at times with a bias."""
        y = self.node("MatMul", x, self.constant(draw(f"w{len(self.constants)}", inputs, outputs)))
        return self.node("Add", self.constant(draw(f"b{len(self.constants)}", outputs)), y) if self.choose(2) else y

    def normalised(self, x: str) -> str:
        """Layer normalisation."""
        return self.node("LayerNormalization", x, self.constant(draw(f"g{len(self.constants)}", WIDTH)))

    def shape(self, x: str, *sizes: int) -> str:
        """A shape: 0 is the size of ``x`` on that axis; a constant, or put together from sizes and numbers, at times shared."""
        kind = self.choose(3)
        if kind == 0:
            return self.ints(*sizes)
        if kind == 1 and ("x", *sizes) in self.joined:
            return self.joined["x", *sizes]
        source = "x" if kind == 1 else x  # both have the batch and the steps on the axes 0 and 1
        parts = [
            self.node("Shape", source, start=axis, end=axis + 1)
            if size == 0 and self.choose(2)
            else self.node("Unsqueeze", self.node("Gather", self.node("Shape", source), self.scalar(axis)), self.ints(0))
            if size == 0
            else self.ints(size)
            for axis, size in enumerate(sizes)
        ]
        shape = self.node("Concat", *parts, axis=0)
        if kind == 1:
            self.joined["x", *sizes] = shape
        return shape

    def scalar(self, number: int) -> str:
        """An integer without axes."""
        self.constants[f"s{number}"] = np.array(number, dtype=np.int64)
        return f"s{number}"

    def heads(self, x: str, count: int) -> str:
        """(batch, steps, count * SIZE) as (batch, count, steps, SIZE)."""
        split = self.node("Reshape", x, self.shape(x, 0, 0, count, SIZE if self.choose(2) else -1))
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def attention(self, x: str) -> str:
        """Attention with 2 or 4 heads, of which 1 or 2 share keys and values."""
        shared = 1 + self.choose(2)
        few = 2 + self.choose(2)
        count = few * shared
        self.units.append(few)
        if shared == 1 and self.choose(2):  # one product, three parts
            whole = self.product(x, WIDTH, 3 * count * SIZE)
            parts = self.node("Reshape", whole, self.shape(x, 0, 0, 3, count, SIZE))
            moved = self.node("Transpose", parts, perm=[2, 0, 3, 1, 4])
            query, key, value = (self.node("Gather", moved, self.scalar(part), axis=0) for part in range(3))
        else:
            query, key, value = (self.heads(self.product(x, WIDTH, number * SIZE), number) for number in (count, few, few))
        if shared > 1:
            key, value = (self.repeated(item, few, shared) for item in (key, value))
        scores = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 1, 3, 2]))
        weights = self.node("Softmax", self.node("Div", scores, self.constant(np.array(2.0, np.float32))), axis=-1)
        context = self.node("Transpose", self.node("MatMul", weights, value), perm=[0, 2, 1, 3])
        flat = self.node("Reshape", context, self.shape(context, 0, 0, count * SIZE if self.choose(2) else -1))
        return self.product(flat, count * SIZE, WIDTH)

    def repeated(self, x: str, few: int, shared: int) -> str:
        """Keys or values once for every head that reads them."""
        more = self.node("Unsqueeze", x, self.ints(2))
        wide = self.node("Expand", more, self.ints(1, few if self.choose(2) else 1, shared, 1, 1))
        return self.node("Reshape", wide, self.ints(0, few * shared, -1, SIZE))

    def perceptron(self, x: str) -> str:
        """Hidden units, gated at times."""
        hidden = 3 + self.choose(4)
        self.units.append(hidden)
        up = self.product(x, WIDTH, hidden)
        if self.choose(2):
            gate = self.product(x, WIDTH, hidden)
            up = self.node("Mul", self.node("Mul", gate, self.node("Sigmoid", gate)), up)
        else:
            up = self.node("Erf", up)
        return self.product(up, hidden, WIDTH)

    def model(self, folder: Path) -> Model:
        """The prepared model."""
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", kind, ["n", "s", WIDTH])],
            [helper.make_tensor_value_info("y", kind, ["n", "s", WIDTH])],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        path = folder / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return prepared_from(load_model(path))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.data())
def test_heads_and_hidden_units_are_cut(data: st.DataObject) -> None:
    network = Transformer(lambda below: data.draw(st.integers(0, below - 1)))
    with tempfile.TemporaryDirectory() as folder:
        model = network.model(Path(folder))
        groups = find_groups(model, observe_shapes(model, SMALL))
        assert [group.units for group in groups.groups] == network.units
        kept = some_units(groups, data.draw(st.integers(0, 99)), 0.5)
        for feed in (SMALL, LARGE):
            assert_cut_is_zeros(model, groups, kept, feed)
