"""All weights count alike: what every other criterion must beat."""

from __future__ import annotations

import numpy as np

from qcompress.prune.clues import Clues
from qcompress.types import Array


def random(weight: Array, clues: Clues) -> Array:
    """Numbers at random from 0 to 1, the same for the same seed and shape."""
    return np.random.default_rng(clues.seed).random(weight.shape)
