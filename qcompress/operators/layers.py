"""Find the weights of a prepared model, who uses each, and what stands against compressing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import numpy as np

from qcompress.graph import Graph, Model, Node, Value
from qcompress.graph.edit import constant_array, int_attribute, ints_attribute, is_constant
from qcompress.graph.model import dtype_name
from qcompress.graph.passes.halves import HALF_STORED
from qcompress.graph.tensors import tensor_array
from qcompress.operators.flow import can_be_static, is_plain_product
from qcompress.operators.support import CHANNEL_SCALES, no_form, why_not
from qcompress.operators.table import OPERATORS, Operator, Role
from qcompress.types import (
    Array,
    CodebookScheme,
    FloatScheme,
    Form,
    PerBlock,
    PerChannel,
    PerTensor,
    QuantScheme,
    Scheme,
)

LEAST_ELEMENTS = 64
"""Weights smaller than this are kept: the nodes that decode them would be larger than what is saved."""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One node that reads a weight at input ``index``; ``transposed``: through a Transpose that swaps two axes."""

    node: Node
    index: int
    transposed: bool = False

    @property
    def operator(self) -> Operator | None:
        """The table row of the node, None for one that is not there."""
        return OPERATORS.get(self.node.op_type) if self.node.domain == "" else None

    @property
    def is_weight(self) -> bool:
        """Whether the table calls this input a weight."""
        return self.operator is not None and self.index in self.operator.weights


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One weight and the nodes that use it.

    ``graph``: where the weight lives; ``main``: the model's main graph. ``reason``: why it cannot be compressed, empty when it can. ``axis``: the output channel axis of the first use, None
    where no axis stands out. ``forms``: what every use allows, best first.
    """

    weight: Value
    graph: Graph
    main: Graph
    uses: tuple[Use, ...]
    reason: str
    axis: int | None
    forms: tuple[Form, ...]

    @property
    def name(self) -> str:
        """The name of the weight."""
        return self.weight.name or ""

    @property
    def node(self) -> Node:
        """The first node that uses the weight."""
        return self.uses[0].node

    @property
    def array(self) -> Array:
        """The float values, (as stored)."""
        array = constant_array(self.weight)
        if array is None:
            raise ValueError(f"{self.name} is not a constant")
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape, without loading it."""
        tensor = self.weight.const_value
        return () if tensor is None else tuple(tensor.shape.numpy())

    @property
    def bytes(self) -> int:
        """Bytes of the weight as stored."""
        tensor = self.weight.const_value
        return 0 if tensor is None else int(tensor.size * 2 if HALF_STORED in self.weight.meta else tensor.nbytes)

    @property
    def stored_dtype(self) -> str:
        """The element type in the file: float16 and bfloat16 weights are float32 only while the model is worked on."""
        if self.weight.dtype is None:
            return ""
        return str(self.weight.meta.get(HALF_STORED) or dtype_name(self.weight.dtype))

    @overload
    def scheme(self, wanted: QuantScheme) -> QuantScheme: ...
    @overload
    def scheme(self, wanted: Scheme) -> Scheme: ...
    def scheme(self, wanted: Scheme) -> Scheme:
        """The wanted scheme on this weight's own axes.

        A channel of a recurrent weight is a row of each direction. Blocks that do not divide the axis become channels.
        """
        if isinstance(wanted, FloatScheme):
            return wanted
        if isinstance(wanted.granularity, PerTensor) or self.axis is None or len(self.shape) < 2:
            return wanted.per_tensor()
        if isinstance(wanted, CodebookScheme):
            return wanted.on_axis(self.axis)
        if isinstance(wanted.granularity, PerBlock) and self.shape[self.reduction_axis] % wanted.granularity.size == 0:
            return wanted.on_axis(self.reduction_axis)
        if self.operator.role is Role.RECURRENT:
            # (directions, gates * hidden, in): one scale for each direction and row = one block along the last axis
            return QuantScheme(wanted.bits, wanted.signed, wanted.symmetric, PerBlock(self.shape[-1], 2))
        return QuantScheme(wanted.bits, wanted.signed, wanted.symmetric, PerChannel(self.axis))

    @property
    def operator(self) -> Operator:
        """The table row of the first use."""
        row = self.uses[0].operator
        if row is None:
            raise ValueError(f"{self.name} has no known operator")
        return row

    @property
    def opset(self) -> int:
        """The version of the model's default operator set."""
        imports = self.main.opset_imports
        return imports.get("", imports.get("ai.onnx", 1))

    @property
    def has_lookup(self) -> bool:
        """Whether rows of the weight are looked up."""
        return any(use.operator is not None and use.operator.role is Role.LOOKUP for use in self.uses)

    @property
    def reduction_axis(self) -> int:
        """The axis that products are summed along (the first, where a kernel has several)."""
        if self.operator.op_type in ("Conv", "ConvTranspose"):
            return 1 if self.operator.op_type == "Conv" else 0
        last = len(self.shape) - 1
        if self.axis is not None and self.axis == last:  # (.., in, out)
            return max(last - 1, 0)
        return last


def why_not_stored(layer: Layer, form: Form, scheme: Scheme) -> str:
    """Why a weight cannot be stored in a form with a scheme, or an empty string."""
    if form in layer.forms:
        return why_not(form, layer.scheme(scheme), layer.opset, layer.shape)
    if layer.reason:
        return layer.reason
    return no_form(layer.operator.op_type, form) or "what reads the weight does not allow it"


def find_layers(model: Model) -> list[Layer]:
    """Every float weight of the prepared model in graph order, subgraphs included; biases and single numbers are not weights."""
    layers: list[Layer] = []
    seen: set[Value] = set()
    for graph in model.ir.graphs():
        for node in graph:
            for value in node.inputs:
                if value is None or value in seen or not value.is_initializer() or value.const_value is None:
                    continue
                seen.add(value)
                owner = value.graph
                if isinstance(owner, Graph) and _is_float(value) and _is_weight(value):
                    layers.append(_layer(value, owner, model))
        for value in graph.outputs:
            if value not in seen and value.is_initializer() and _is_float(value):
                seen.add(value)
                layers.append(_layer(value, graph, model))
    return layers


def _is_weight(value: Value) -> bool:
    """Whether a float constant is listed: arrays are, single numbers and empty arrays only where weights are expected."""
    size = 0 if value.const_value is None else value.const_value.size
    return size > 1 or any(use.is_weight for use in _uses(value))


def _layer(value: Value, graph: Graph, model: Model) -> Layer:
    uses = tuple(_uses(value))
    weighted = [use for use in uses if use.is_weight]
    reason = _why_kept(value, uses)
    axis = None if not weighted else _channel_axis(weighted[0], value)
    ordered = (*weighted, *(use for use in uses if not use.is_weight))
    forms = () if reason else _forms(ordered, value, all(use.node.graph is model.graph for use in ordered))
    if model.opset < CHANNEL_SCALES:  # the operator set could not be raised: ordinary operators only
        forms = tuple(form for form in forms if form in (Form.FOLDED, Form.GATHERED))
    return Layer(value, graph, model.graph, ordered, reason, axis, forms)


def _uses(value: Value) -> Iterator[Use]:
    for use in value.uses():
        node = use.node
        two_axes = value.const_value is not None and len(value.const_value.shape) == 2
        swaps = node.op_type == "Transpose" and node.domain == "" and ints_attribute(node, "perm") in ((1, 0), ())
        if swaps and two_axes and not node.outputs[0].is_graph_output():
            for behind in node.outputs[0].uses():
                yield Use(behind.node, behind.idx, transposed=True)
        else:
            yield Use(node, use.idx)


def _why_kept(value: Value, uses: tuple[Use, ...]) -> str:
    """Why a weight cannot be compressed, or an empty string."""
    tensor = value.const_value
    if tensor is None or not is_constant(value):
        return "is also a model input that a caller may feed"
    if value.is_graph_output():
        return "is also a model output"
    if value.dtype is None or value.dtype.name != "FLOAT":
        return f"is {dtype_name(tensor.dtype)}: only float32, float16 and bfloat16 weights are compressed"
    others = [use for use in uses if not use.is_weight]
    if len(others) == len(uses):
        biased = [use for use in uses if use.operator is not None and use.index == use.operator.bias]
        if biased:
            return "is a bias"
        return "is not the weight of an operator in the table" + (f" ({uses[0].node.op_type})" if uses else "")
    if others:
        return f"is also used by {others[0].node.op_type} {others[0].node.name!r}"
    if tensor.size < LEAST_ELEMENTS:
        return f"has only {tensor.size} elements"
    if any(
        use.operator is not None and use.operator.role is Role.LOOKUP and int_attribute(use.node, "axis", 0) for use in uses
    ):
        return "is gathered along another axis than the first"
    if not np.all(np.isfinite(tensor_array(tensor))):
        return "has NaN or infinite values"
    return ""


def _forms(uses: tuple[Use, ...], value: Value, in_main: bool) -> tuple[Form, ...]:
    """The forms that every use allows, in the order of the first use's table row."""
    rank = 0 if value.const_value is None else len(value.const_value.shape)
    linear = [use for use in uses if use.operator is not None and use.operator.role is not Role.LOOKUP]
    lookups = [use for use in uses if use not in linear]
    # Codes that two products read are decoded on every run, and those around a body make the runtime fail at load.
    alone = len(linear) == 1 and linear[0].node.graph is value.graph
    if linear and lookups:  # a tied embedding: rows are gathered, the projection multiplies the same codes
        right = all(use.index == 1 and use.node.op_type == "MatMul" for use in linear)
        rows = right and alone and _channel_axis(linear[0], value) == 0
        return (Form.WEIGHT_ONLY, Form.FOLDED) if rows and rank == 2 else (Form.FOLDED,)
    if lookups:
        return (Form.GATHERED, Form.FOLDED)
    row = linear[0].operator
    forms = () if row is None else row.forms
    axes = {_channel_axis(use, value) for use in linear}
    plain = rank == 2 and all(use.index == 1 and not use.transposed for use in linear)
    matrix = all(use.node.op_type in ("MatMul", "Gemm") for use in linear)
    allowed = {Form.FOLDED}
    if len(axes) == 1 and in_main and (plain if matrix else True) and all(can_be_static(use.node) for use in linear):
        allowed.add(Form.STATIC)
    if len(axes) == 1 and plain and matrix and all(is_plain_product(use.node) for use in linear):
        allowed |= {Form.DYNAMIC}
        allowed |= {Form.WEIGHT_ONLY} if alone else set()
    elif alone and rank == 2 and linear[0].index == 1 and linear[0].node.op_type == "MatMul":
        allowed.add(Form.WEIGHT_ONLY)  # DequantizeLinear, Transpose, MatMul
    return tuple(form for form in forms if form in allowed)


def _channel_axis(use: Use, value: Value) -> int | None:
    """The axis of the weight that runs over output channels, seen from one use."""
    rank = 0 if value.const_value is None else len(value.const_value.shape)
    op_type = use.node.op_type
    if op_type in ("ConvTranspose", "LSTM", "GRU", "RNN"):
        axis = 1
    elif op_type == "Gemm":
        axis = 0 if int_attribute(use.node, "transB", 0) else 1
    elif op_type == "MatMul":
        if rank < 2:
            return None
        axis = rank - 1 if use.index == 1 else rank - 2
    else:
        axis = 0
    return 1 - axis if use.transposed else axis


def _is_float(value: Value) -> bool:
    return value.dtype is not None and value.dtype.name in ("FLOAT", "DOUBLE", "BFLOAT16", "FLOAT16")
