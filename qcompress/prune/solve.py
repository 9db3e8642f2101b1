"""Least squares for rows of which only some numbers may differ from 0, many rows at once.

    minimise over v, v_k = 0 outside the row's mask    (v - w) H (v - w)^T

Rows that share a mask share one factorization. Few inputs are solved exactly, a matrix for each row. For many, conjugate gradients
work on all rows at once: each step is one product of the rows with H, so they are as fast as matrices are multiplied, and a few dozen
steps stand in for a factorization per row.

SparseGPT's order, in which a pruned number is made up for by later inputs only, takes half the time and leaves more: half of the
numbers pruned by Wanda, error on fresh rows, survivors alone 0.0387, in that order 0.0220, here 0.0063 (1 x 1 layers of the digits
model; EfficientNet-Lite0 0.0288, 0.0181, 0.0112).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompress.types import Array

# Up to so many inputs a matrix per row is solved exactly; beyond, conjugate gradients are faster.
EXACT_INPUTS = 48

# Numbers of matrices, and of rows, that are worked on at a time.
_CHUNK = 1 << 22

Solve = Callable[[Array, Array, Array], Array]

# Steps end when one lowers the error of all rows by less than this share, or after so many.
_GAIN, _STEPS = 1e-3, 60


def solve_rows(target: Array, keep: Array, hessian: Array) -> Array:
    """The rows nearest to ``target`` in what they give, 0 outside their masks.

    Args:
        target: (groups, outputs, inputs), float64, w.
        keep: of the same shape, True where a number may differ from 0.
        hessian: (groups, inputs, inputs), positive definite.
    """
    roots = np.sqrt(np.diagonal(hessian, axis1=1, axis2=2))
    correlations = hessian / roots[:, :, None] / roots[:, None, :]  # of diagonal 1: inputs of any size are solved alike
    scaled = target * roots[:, None]
    few = target.shape[2] <= EXACT_INPUTS
    if target.shape[1] > few and (keep == keep[:, :1]).all():
        solved = _shared(scaled, keep[:, 0], correlations)
    elif few:
        solved = _in_parts(_exact, scaled, keep, correlations, target.shape[2])
    else:
        solved = _in_parts(_conjugate, scaled, keep, correlations, 1)
    return np.asarray(solved / roots[:, None])


def _in_parts(solve: Solve, target: Array, keep: Array, hessian: Array, factor: int) -> Array:
    """Solve some outputs of all groups at a time."""
    groups, outputs, inputs = target.shape
    step = max(1, _CHUNK // max(groups * inputs * factor, 1))
    return np.concatenate(
        [solve(target[:, at : at + step], keep[:, at : at + step], hessian) for at in range(0, max(outputs, 1), step)],
        axis=1,
    )


def _shared(target: Array, keep: Array, hessian: Array) -> Array:
    """All outputs of a group have one mask, (groups, inputs)."""
    solved = np.zeros_like(target)
    for group, kept in enumerate(keep):
        inner = hessian[group][np.ix_(kept, kept)]
        outer = hessian[group][:, kept]
        solved[group][:, kept] = np.linalg.solve(inner, (target[group] @ outer).T).T
    return solved


def _exact(target: Array, keep: Array, hessian: Array) -> Array:
    """Every row by itself: rows and columns outside a mask become those of the identity."""
    inside = keep[..., :, None] & keep[..., None, :]
    matrices = np.where(inside, hessian[:, None], np.eye(hessian.shape[1]))
    wanted = np.where(keep, target @ hessian, 0.0)
    return np.asarray(np.linalg.solve(matrices, wanted[..., None])[..., 0])


def _conjugate(target: Array, keep: Array, hessian: Array) -> Array:
    """Conjugate gradients from the survivors as they are; every step lowers the error of every row.

    Source: Hestenes and Stiefel, Journal of Research of the National Bureau of Standards 49, 1952; for pruned layers Meng et al.,
    ALPS, NeurIPS 2024, arXiv:2406.07831, section 3.3, all rows at once.
    """
    values = np.where(keep, target, 0.0)
    rest = target - values
    residual = rest @ hessian
    error = float(np.vdot(rest, residual))
    residual *= keep
    direction = residual.copy()
    energy = np.vecdot(residual, residual)
    for _ in range(_STEPS):
        change = direction @ hessian
        change *= keep
        curvature = np.vecdot(direction, change)
        step = np.where(curvature > 0.0, energy / np.where(curvature > 0.0, curvature, 1.0), 0.0)
        values += step[..., None] * direction
        residual -= step[..., None] * change
        gained = float(np.vdot(step, energy))
        error -= gained
        before, energy = energy, np.vecdot(residual, residual)
        if gained <= _GAIN * error:
            break
        direction *= np.where(before > 0.0, energy / np.where(before > 0.0, before, 1.0), 0.0)[..., None]
        direction += residual
    return values
