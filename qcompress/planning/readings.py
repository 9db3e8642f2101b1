"""Where a layer's weight meets rows of activations, and which axes of it are summed over."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.calibrate.gram import Rows, rows_of
from qcompress.graph import Node
from qcompress.graph.edit import int_attribute, is_constant
from qcompress.operators import Layer, Role
from qcompress.operators.flow import is_plain_product
from qcompress.operators.layers import Use
from qcompress.quantize import Layout

MOST_GRAM_BYTES = 1 << 30
"""What the two Gram matrices of a layer may take: 8192 columns. Layers with more are rounded without."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One node that multiplies rows of a tensor with the weight."""

    node: str
    tensor: str
    rows: Rows
    beside: str = ""
    """The tensor that is added to what the node gives, as in a residual block; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Readings:
    """Which axes of a weight its products are summed over, in how many groups, and every node that reads it that way."""

    layout: Layout
    groups: int = 1
    nodes: tuple[Reading, ...] = ()


def readings_of(layer: Layer) -> Readings:
    """How a layer's weight is used.

    The first use that reads rows of an activation of the main graph decides; other uses count when they sum over the same
    axes, so that one Gram matrix holds the rows of all. Looked-up rows of a tied embedding are not rows in this sense.
    """
    found: list[tuple[Layout, Reading]] = []
    for use in layer.uses:
        rows = _rows(layer, use)
        source = use.node.inputs[0]
        if rows is not None and source is not None:
            found.append((_layout(use), Reading(use.node.name or "", source.name or "", rows, _beside(use.node))))
    if not found:
        first = layer.uses[0]
        groups = int_attribute(first.node, "group", 1) if first.node.op_type in ("Conv", "ConvTranspose") else 1
        return Readings(_layout(first), groups)
    layout, first_reading = found[0]
    groups = first_reading.rows.groups
    alike = tuple(reading for other, reading in found if other is layout and reading.rows.groups == groups)
    return Readings(layout, groups, alike)


def _rows(layer: Layer, use: Use) -> Rows | None:
    """The rows that a use multiplies the weight with, None where it has none, or too many columns of them."""
    source = use.node.inputs[0]
    if use.index != 1 or source is None or is_constant(source):
        return None
    if use.node.graph is not layer.main or source.graph is not layer.main:
        return None
    rows = rows_of(use.node, layer.shape, use.transposed)
    if rows is not None and 2 * 8 * rows.groups * rows.columns**2 > MOST_GRAM_BYTES:
        return None
    return rows


def _beside(node: Node) -> str:
    """The tensor that is added to a node's output, a bias in between or not, before anything else reads it."""
    if node.op_type == "Gemm" and not is_plain_product(node):
        return ""
    value = node.outputs[0]
    while not value.is_graph_output() and len(uses := list(value.uses())) == 1 and uses[0].node.op_type == "Add":
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        if other is None or add.graph is not node.graph:
            return ""
        if not is_constant(other):
            return (other.name or "") if other.graph is node.graph else ""
        value = add.outputs[0]
    return ""


def _layout(use: Use) -> Layout:
    """The axes that a use sums over."""
    node = use.node
    if node.op_type in ("Conv", "ConvTranspose"):
        return Layout.CONV if node.op_type == "Conv" else Layout.CONV_TRANSPOSE
    if use.operator is not None and use.operator.role is Role.LOOKUP:
        return Layout.TABLE
    if use.operator is not None and use.operator.role is Role.RECURRENT:
        return Layout.OUT_IN
    swapped = use.transposed != (node.op_type == "Gemm" and bool(int_attribute(node, "transB", 0)))
    return Layout.IN_OUT if (use.index == 1) != swapped else Layout.OUT_IN
