"""Weights count as much as the layer's outputs lose without them, when the other weights make up for it."""

from __future__ import annotations

import numpy as np

from qcompress.prune.clues import Clues
from qcompress.prune.conditioning import expected
from qcompress.quantize import from_rows, to_rows
from qcompress.types import Array


def optimal_brain(weight: Array, clues: Clues) -> Array:
    """w^2 / (H^-1)_kk with H = E[x x^T], shrunk towards its diagonal as few rows ask for.

    Without correlations inputs count as uncorrelated, w^2 E[x^2]; without anything as alike, w^2.

    Source: Hassibi and Stork, Optimal Brain Surgeon, NeurIPS 1992, equation 5; for the outputs of a layer Frantar and Alistarh,
    SparseGPT, ICML 2023, arXiv:2301.00774, equation 3.
    """
    evidence = clues.evidence
    if evidence.gram is None:
        moments = evidence.moments(weight.shape)
        squares = np.square(weight, dtype=np.float64)
        return squares if moments is None else squares * moments
    stiffness = stiffness_of(expected(evidence.gram).apply(evidence.gram.pooled))
    rows = np.square(to_rows(weight, evidence.layout, evidence.groups), dtype=np.float64)
    return from_rows(rows * stiffness[:, None], weight.shape, evidence.layout, evidence.groups)


def stiffness_of(hessian: Array) -> Array:
    """1 / (H^-1)_kk of positive definite matrices, (groups, inputs, inputs) -> (groups, inputs).

    It is what of an input's second moment the other inputs cannot make up for.
    """
    roots = np.sqrt(np.diagonal(hessian, axis1=1, axis2=2))
    correlations = hessian / roots[:, :, None] / roots[:, None, :]  # of diagonal 1: inputs of any size are solved alike
    inverse = np.diagonal(np.linalg.inv(correlations), axis1=1, axis2=2)
    return np.asarray(np.square(roots) / np.maximum(inverse, 1.0))
