"""Weights of any operator as rows of inputs and back: rows[g, n] are the factors of one output over the inputs of its group."""

from __future__ import annotations

from enum import StrEnum
from math import prod

import numpy as np

from qcompress.types import Array


class Layout(StrEnum):
    """Which axes of a weight its products are summed over."""

    IN_OUT = "in out"
    """(..., inputs, outputs): MatMul, Gemm with transB = 0."""
    OUT_IN = "out in"
    """(..., outputs, inputs): Gemm with transB = 1, the matrices of recurrent layers."""
    CONV = "conv"
    """(outputs, inputs / groups, *kernel): inputs are channels and kernel positions; outputs of a group are consecutive."""
    CONV_TRANSPOSE = "transposed conv"
    """(inputs, outputs / groups, *kernel): every kernel position is an output of its own; inputs of a group are consecutive."""
    TABLE = "table"
    """(entries, ...): rows are looked up, nothing is summed."""


def to_rows(weight: Array, layout: Layout, groups: int = 1) -> Array:
    """The weight as (groups, outputs / groups, inputs / groups), a view where its memory allows.

    Args:
        weight: at least one axis, in the order of the layout. A vector has one output.
        layout: which axes are inputs.
        groups: of a grouped convolution; of products, how many matrices of their own leading axes hold.
    """
    if weight.ndim == 1:
        return weight.reshape(1, 1, -1)
    if layout is Layout.IN_OUT:
        return np.swapaxes(weight, -1, -2).reshape(groups, -1, weight.shape[-2])
    if layout is Layout.OUT_IN:
        return weight.reshape(groups, -1, weight.shape[-1])
    if layout is Layout.CONV_TRANSPOSE:
        inputs = weight.shape[0] // groups
        return np.swapaxes(weight.reshape(groups, inputs, -1), 1, 2)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def from_rows(rows: Array, shape: tuple[int, ...], layout: Layout, groups: int = 1) -> Array:
    """What ``to_rows`` made, in the shape of the weight again.

    Args:
        rows: (groups, outputs / groups, inputs / groups).
        shape: of the weight.
        layout: as it was given to ``to_rows``.
        groups: as they were given to ``to_rows``.
    """
    if len(shape) > 1 and layout is Layout.IN_OUT:
        return np.swapaxes(rows.reshape(*shape[:-2], shape[-1], shape[-2]), -1, -2)
    if len(shape) > 1 and layout is Layout.CONV_TRANSPOSE:
        return np.swapaxes(rows, 1, 2).reshape(shape)
    return rows.reshape(shape)


def inputs_of(shape: tuple[int, ...], layout: Layout, groups: int = 1) -> int:
    """How many inputs an output of a weight of ``shape`` sums over."""
    if len(shape) == 1:
        return shape[0]
    if layout is Layout.IN_OUT:
        return shape[-2]
    if layout is Layout.OUT_IN:
        return shape[-1]
    return shape[0] // groups if layout is Layout.CONV_TRANSPOSE else prod(shape[1:])


def importance_of(diagonal: Array, shape: tuple[int, ...], layout: Layout, groups: int = 1) -> Array:
    """The second moment of the input that each weight multiplies, broadcastable to a weight of ``shape``.

    Args:
        diagonal: (groups, inputs / groups), E[x^2].
        shape: of the weight.
        layout: which axes are inputs.
        groups: as ``to_rows`` takes them.
    """
    inputs = diagonal.shape[-1]
    if groups == 1 and len(shape) > 1:
        one_row = {
            Layout.IN_OUT: (1,) * (len(shape) - 2) + (inputs, 1),
            Layout.OUT_IN: (1,) * (len(shape) - 1) + (inputs,),
            Layout.CONV_TRANSPOSE: (inputs,) + (1,) * (len(shape) - 1),
        }.get(layout, (1, *shape[1:]))
        return diagonal.reshape(one_row)
    rows = prod(shape) // max(groups * inputs, 1)
    return from_rows(np.broadcast_to(diagonal[:, None, :], (groups, rows, inputs)), shape, layout, groups)
