"""A 1-D convolution with few output positions becomes a 2-D one over lines of height 1, for which the runtime has faster kernels.

The 1-D kernel multiplies one sample at a time, 16 positions at least; the 2-D kernels run over blocks of channels. Measured
with onnxruntime 1.31.1 on single convolutions with kernels longer than 1: 1.4x to 3.6x as fast for 20 samples and 1 to 8
positions, 0.7x to 2x at 16 positions, 0.4x (11 microseconds lost) to 2.3x for one sample. A voice detector in float is 1.6x as
fast for 20 samples and the same for one. Input channels that do not fill blocks (129) gain nothing here.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from qcompress.graph.edit import Editor, constant_array, ints_attribute, only_user, replace_uses, set_attribute, set_constant
from qcompress.graph.model import Model

MOST_POSITIONS = 8
LEAST_ELEMENTS = 1 << 13
"""Weights smaller than this are computed too fast for the two added nodes to pay."""

AXES_ARE_INPUTS = 13
"""The first operator set whose Squeeze and Unsqueeze take axes as an input."""

_POINTWISE = frozenset(("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh", "Elu", "Clip", "Softplus", "Erf", "Sqrt"))


def lift_short_lines(model: Model) -> int:
    """Lift 1-D convolutions of the main graph whose output is known to be short; chains of them are lifted as one.

    Left alone: a batch known to be of one sample, lengths that are not fixed, weights that others read.
    """
    nodes = [node for node in model.graph if _is_large_line(node)]
    if not nodes or model.opset < AXES_ARE_INPUTS:
        return 0
    short = _short_outputs(model)
    lift = _Lift(model)
    chosen = [node for node in nodes if node.outputs[0].name in short]
    for node in chosen:
        lift.convolution(node)
    return len(chosen)


def _is_large_line(node: ir.Node) -> bool:
    """Whether a node is a 1-D convolution worth lifting, its output length apart."""
    if node.op_type != "Conv" or node.domain or node.outputs[0].is_graph_output():
        return False
    weight = node.inputs[1]
    array = constant_array(weight)
    if weight is None or array is None or array.ndim != 3 or len(weight.uses()) != 1 or weight.is_graph_output():
        return False
    return array.shape[2] > 1 and array.size >= LEAST_ELEMENTS


def _short_outputs(model: Model) -> set[str]:
    """Names of three-axis tensors with few positions and more than one sample, as far as shapes are fixed by the model."""
    inferred = model.clone()
    common.ShapeInferencePass()(inferred.ir)
    short: set[str] = set()
    for node in inferred.graph:
        shape = node.outputs[0].shape if node.op_type == "Conv" else None
        if (
            shape is not None
            and len(shape) == 3
            and isinstance(shape[2], int)
            and shape[2] <= MOST_POSITIONS
            and shape[0] != 1
        ):
            short.add(node.outputs[0].name or "")
    return short


class _Lift:
    """Lifts convolutions in graph order; remembers which tensors exist with four axes."""

    def __init__(self, model: Model) -> None:
        self._editor = Editor(model.graph)
        self._axis: ir.Value | None = None
        self._lifted: dict[ir.Value, ir.Value] = {}

    def convolution(self, node: ir.Node) -> None:
        """Let a convolution compute on (batch, channels, 1, length)."""
        source, weight = node.inputs[0], node.inputs[1]
        array = constant_array(weight)
        if source is None or weight is None or array is None:
            raise ValueError(f"{node.name} has no weight")
        node.replace_input_with(0, self._four_axes(source, node))
        set_constant(weight, array[:, :, None, :])  # (out, in, k) -> (out, in, 1, k)
        for name in ("kernel_shape", "strides", "dilations"):
            if numbers := ints_attribute(node, name):
                set_attribute(node, name, [1, *numbers])
        if pads := ints_attribute(node, "pads"):
            set_attribute(node, "pads", [0, pads[0], 0, pads[1]])
        output = node.outputs[0]
        users = [(use.node, use.idx) for use in output.uses()]
        output.shape = None
        line = self._node("Squeeze", output, f"{output.name}_line")
        self._editor.place_after(output, [line])
        replace_uses(output, line, users)
        self._lifted[line] = output

    def _four_axes(self, source: ir.Value, reader: ir.Node) -> ir.Value:
        """``source`` with four axes.

        Case 1: it comes from a lifted convolution. Case 2: through a pointwise node that only ``reader`` reads, which then
        computes with four axes too. Case 3: it does not.
        """
        if source in self._lifted:  # Case 1
            return self._lifted[source]
        producer = source.producer()
        before = None if producer is None or not producer.inputs else producer.inputs[0]
        pointwise = producer is not None and producer.op_type in _POINTWISE and not producer.domain
        if pointwise and producer is not None and before in self._lifted and only_user(source) is reader:  # Case 2
            producer.replace_input_with(0, self._lifted[before])
            source.shape = None
            return source
        plane = self._node("Unsqueeze", source, f"{source.name}_plane")  # Case 3
        self._editor.place_before(reader, [plane])
        return plane

    def _node(self, op_type: str, value: ir.Value, name: str) -> ir.Value:
        if self._axis is None:
            self._axis = self._editor.constant("height_axis", np.asarray([2], dtype=np.int64))
        result = self._editor.node(op_type, [value, self._axis], name)
        self._editor.name_node(result)
        return result
