"""Weights count as much as the loss changes, to first order, when they become 0."""

from __future__ import annotations

import numpy as np

from qcompress.prune.clues import Clues
from qcompress.prune.criteria.optimal_brain import optimal_brain
from qcompress.types import Array


def taylor(weight: Array, clues: Clues) -> Array:
    """|w| times the root mean square of dJ/dw; where the gradient is not known what the layer's own outputs lose.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, arXiv:1906.10771, equation 8, its mean
    of squares over samples under a root.
    """
    return optimal_brain(weight, clues) if clues.gradient is None else np.abs(weight * clues.gradient)
