"""Weights count as much as what they add to an output."""

from __future__ import annotations

import numpy as np

from qcompress.prune.clues import Clues
from qcompress.types import Array


def wanda(weight: Array, clues: Clues) -> Array:
    """|w| times the root mean square of the input that it multiplies; |w| where nothing is known about the inputs.

    Source: Sun et al., Wanda, ICLR 2024, arXiv:2306.11695, equation 1.
    """
    moments = clues.evidence.moments(weight.shape)
    return np.abs(weight) if moments is None else np.abs(weight) * np.sqrt(moments)
