"""Properties of cutting: whatever network of the operators with rules, a cut is as good as zeros in the consumers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from cut_models import assert_cut_is_zeros, some_units
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from text_models import draw

from qcompress.calibrate import observe_shapes
from qcompress.graph import Model, load_model
from qcompress.pipeline import prepared_from
from qcompress.structure import Groups, find_groups, multiply_adds
from qcompress.types import Array

SIDE = 4
FEED = {"x": draw("image", 2, 3, SIDE, SIDE)}


class Network:
    """A random network of images with (2, channels, SIDE, SIDE) tensors; ``choose(n)`` draws a number below n."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self.choose = choose
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.channels: dict[str, int] = {}
        self.channels[self.conv("x", 3, 4)] = 4

    def node(self, op_type: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        """A node more; returns its outputs."""
        names = [f"t{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, f"n{len(self.nodes)}", **attributes))
        return names

    def weight(self, *shape: int) -> str:
        """A constant more."""
        name = f"w{len(self.constants)}"
        self.constants[name] = draw(name, *shape)
        return name

    def ints(self, *numbers: int) -> str:
        """A constant shape; equal ones are shared."""
        name = "shape_" + "_".join(map(str, numbers)).replace("-", "m")
        self.constants[name] = np.array(numbers, dtype=np.int64)
        return name

    def any(self) -> tuple[str, int]:
        """A tensor that is there, and its channels."""
        return list(self.channels.items())[self.choose(len(self.channels))]

    def conv(self, name: str, channels: int, outputs: int, group: int = 1) -> str:
        """A convolution that keeps the size of the image."""
        weights = [self.weight(outputs, channels // group, 3, 3)] + ([self.weight(outputs)] if self.choose(2) else [])
        return self.node("Conv", [name, *weights], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=group)[0]

    def step(self) -> None:
        """One more layer, or a few."""
        kinds = [self.plain, self.grouped, self.unary, self.scaled, self.binary, self.joined, self.parted, self.excited]
        kinds += [self.product, self.regrouped, self.back_and_forth, self.up, self.sliced]
        kinds[self.choose(len(kinds))]()

    def plain(self) -> None:
        """A Conv."""
        name, channels = self.any()
        outputs = 2 + self.choose(5)
        self.channels[self.conv(name, channels, outputs)] = outputs

    def grouped(self) -> None:
        """A grouped or depthwise Conv."""
        name, channels = self.any()
        groups = [number for number in range(2, channels + 1) if channels % number == 0]
        if groups:
            group = groups[self.choose(len(groups))]
            outputs = group * (1 + self.choose(3))
            self.channels[self.conv(name, channels, outputs, group)] = outputs

    def unary(self) -> None:
        """An activation function."""
        name, channels = self.any()
        kind = ("Relu", "Sigmoid", "HardSwish", "Elu", "Identity", "Softmax", "GlobalAveragePool")[self.choose(7)]
        new = self.node(kind, [name], **({"axis": 1 + self.choose(2)} if kind == "Softmax" else {}))[0]
        if kind == "GlobalAveragePool":
            new = self.node("Add", [name, new])[0]
        self.channels[new] = channels

    def scaled(self) -> None:
        """A factor or an instance normalisation with one number for each channel, or one for all."""
        name, channels = self.any()
        if self.choose(2):
            new = self.node("InstanceNormalization", [name, self.weight(channels), self.weight(channels)])
        else:
            new = self.node("Mul", [self.weight(*((channels, 1, 1) if self.choose(2) else (1,))), name])
        self.channels[new[0]] = channels

    def binary(self) -> None:
        """The sum or product of two tensors with as many channels."""
        name, channels = self.any()
        others = [other for other, number in self.channels.items() if number == channels]
        self.channels[self.node(("Add", "Mul")[self.choose(2)], [name, others[self.choose(len(others))]])[0]] = channels

    def joined(self) -> None:
        """Two tensors, one behind the other."""
        (one, left), (other, right) = self.any(), self.any()
        self.channels[self.node("Concat", [one, other], axis=1)[0]] = left + right

    def parted(self) -> None:
        """Two parts of a tensor."""
        name, channels = self.any()
        first = 1 + self.choose(channels - 1) if channels > 1 else 0
        if first:
            sizes = [] if 2 * first == channels and self.choose(2) else [self.ints(first, channels - first)]
            parts = self.node("Split", [name, *sizes], 2, axis=1)
            self.channels.update(zip(parts, (first, channels - first), strict=True))

    def excited(self) -> None:
        """Squeeze and excite."""
        name, channels = self.any()
        pooled = self.node("GlobalAveragePool", [name])[0]
        inner = self.node("Conv", [pooled, self.weight(3, channels, 1, 1)])[0]
        outer = self.node("Conv", [self.node("Relu", [inner])[0], self.weight(channels, 3, 1, 1)])[0]
        self.channels[self.node("Mul", [self.node("Sigmoid", [outer])[0], name])[0]] = channels

    def product(self) -> None:
        """Channels last, and a product with a matrix."""
        name, channels = self.any()
        outputs = 2 + self.choose(4)
        last = self.node("Transpose", [name], perm=[0, 2, 3, 1])[0]
        made = self.node("MatMul", [last, self.weight(channels, outputs)])[0]
        self.channels[self.node("Transpose", [made], perm=[0, 3, 1, 2])[0]] = outputs

    def regrouped(self) -> None:
        """Channels in groups, mixed or not, and back again; the shape from a constant or from the tensor."""
        name, channels = self.any()
        group = next((number for number in (3, 2) if channels % number == 0), 0)
        if group:
            within = channels // group
            split = self.node("Reshape", [name, self.ints(0, group, within, SIDE, -1)])[0]
            if self.choose(2):
                split = self.node("Transpose", [split], perm=[0, 2, 1, 3, 4])[0]
            back = self.ints(0, channels, SIDE, SIDE) if self.choose(2) else self.node("Shape", [name])[0]
            self.channels[self.node("Reshape", [split, back])[0]] = channels

    def back_and_forth(self) -> None:
        """Every channel flattened, and the same shape put together from sizes and numbers."""
        name, channels = self.any()
        flat = self.node("Reshape", [name, self.ints(0, 0, -1)])[0]
        batch = self.node("Shape", [name], start=0, end=1)[0]
        middle = self.ints(channels) if self.choose(2) else self.node("Shape", [flat], start=1, end=2)[0]
        shape = self.node("Concat", [batch, middle, self.ints(SIDE), self.ints(SIDE)], axis=0)[0]
        self.channels[self.node("Reshape", [flat, shape])[0]] = channels

    def up(self) -> None:
        """ConvTranspose, grouped at times."""
        name, channels = self.any()
        group = 2 if channels % 2 == 0 and self.choose(2) else 1
        outputs = 1 + self.choose(3)
        new = self.node("ConvTranspose", [name, self.weight(channels, outputs, 1, 1)], group=group)[0]
        self.channels[new] = outputs * group

    def sliced(self) -> None:
        """All channels but some."""
        name, channels = self.any()
        end = channels - self.choose(2) if channels > 1 else channels
        new = self.node("Slice", [name, self.ints(0), self.ints(end), self.ints(1)])[0]
        self.channels[new] = end

    def model(self, folder: Path) -> Model:
        """The prepared model: the last tensors are flattened or pooled and go into one matrix."""
        last, channels = list(self.channels.items())[-1]
        other, more = list(self.channels.items())[len(self.channels) // 2]
        flat = self.node("Flatten", [last])[0]
        pooled = self.node("ReduceMean", [other], axes=[2, 3], keepdims=0)[0]
        both = self.node("Concat", [flat, pooled], axis=1)[0]
        self.nodes.append(helper.make_node("Gemm", [both, self.weight(channels * SIDE * SIDE + more, 5)], ["y"], "last"))
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 5])],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        path = folder / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return prepared_from(load_model(path))


def random_model(data: st.DataObject, folder: Path) -> tuple[Model, Groups]:
    """A random network and its groups."""
    network = Network(lambda below: data.draw(st.integers(0, below - 1)))
    for _ in range(data.draw(st.integers(2, 9))):
        network.step()
    model = network.model(folder)
    return model, find_groups(model, observe_shapes(model, FEED))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
def test_a_cut_of_a_random_network_is_as_good_as_zeros(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, groups = random_model(data, Path(folder))
        assume(groups.groups)
        kept = some_units(groups, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.01, 0.5, 0.8])))
        smaller = assert_cut_is_zeros(model, groups, kept, FEED)
        fewer = any(len(kept[group.name]) < group.units for group in groups.groups)
        assert (_cost(smaller) < _cost(model)) == fewer


def _cost(model: Model) -> int:
    return sum(multiply_adds(model, observe_shapes(model, FEED)).values())
