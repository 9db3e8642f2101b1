"""Means of outputs that a bias gives back, so that a weight need not spend its precision on them."""

from __future__ import annotations

import numpy as np

from qcompress.operators import Layer
from qcompress.operators.flow import can_shift, is_plain_product
from qcompress.planning.readings import Readings
from qcompress.planning.walk import Shifts
from qcompress.quantize import Gram, Layout
from qcompress.quantize.align import Drift
from qcompress.quantize.layouts import to_rows
from qcompress.types import Array


def bias_node(layer: Layer, uses: Readings) -> str | None:
    """The one node that uses the weight, when it has or can have a bias for each output."""
    if len(layer.uses) != 1 or uses.layout is Layout.CONV_TRANSPOSE or not uses.nodes:
        return None
    node = layer.node
    plain = node.op_type != "Gemm" or is_plain_product(node)
    return (node.name or None) if plain and can_shift(node) else None


def mean_shift(node: str, exact: Array, changed: Array, uses: Readings, gram: Gram, drift: Drift | None) -> Shifts:
    """What the node's bias is shifted by, so that with the changed weight the mean of each output is what it should be.

    Args:
        node: whose bias it is.
        exact: the weight as it should be.
        changed: what it has become.
        uses: which axes are inputs.
        gram: of the inputs it gets, with their means.
        drift: from the inputs it should get, and what is lacking beside its outputs.
    """
    wanted = _outputs(exact, gram.middle if drift is None else gram.middle + drift.middle(gram), uses)
    lacking = None if drift is None else drift.lacking(gram)
    if lacking is not None and lacking.size == wanted.size:
        wanted = wanted + lacking.reshape(-1)
    return {node: tuple(float(shift) for shift in wanted - _outputs(changed, gram.middle, uses))}


def _outputs(weight: Array, inputs: Array, uses: Readings) -> Array:
    """What a layer makes of one row of each group, (outputs,); ``inputs``: (groups, inputs)."""
    rows = to_rows(np.asarray(weight, dtype=np.float64), uses.layout, uses.groups)
    return np.asarray(np.einsum("goi,gi->go", rows, inputs).reshape(-1))
