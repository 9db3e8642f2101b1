"""Weights count as much as the loss is sensitive to them."""

from __future__ import annotations

import numpy as np

from qcompress.prune.clues import Clues
from qcompress.prune.criteria.optimal_brain import optimal_brain
from qcompress.types import Array


def gradient(weight: Array, clues: Clues) -> Array:
    """The root mean square of R = dJ/dw; where it is not known what the layer's own outputs lose.

    Source: the definition of pruning by R < tau with R = dJ/dx; as skeletonization Mozer and Smolensky, NeurIPS 1988, section 2.
    """
    return optimal_brain(weight, clues) if clues.gradient is None else np.abs(clues.gradient)
