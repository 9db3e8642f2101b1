"""Small weights count little."""

from __future__ import annotations

import numpy as np

from qcompress.prune.clues import Clues
from qcompress.types import Array


def magnitude(weight: Array, clues: Clues) -> Array:
    """|w|.

    Source: Han et al., NeurIPS 2015, arXiv:1506.02626, section 3.
    """
    return np.abs(weight)
