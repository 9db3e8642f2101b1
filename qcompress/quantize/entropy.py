"""How few bits codes could be stored in, each by itself."""

from __future__ import annotations

import numpy as np

from qcompress.types import EncodedTensor, NarrowTensor


def code_entropy(encoded: EncodedTensor) -> float | None:
    """Bits per number that no code for single numbers goes below; None for numbers that are not codes.

    Source: Shannon, A Mathematical Theory of Communication, Bell System Technical Journal 27, 1948, theorem 9.
    """
    if isinstance(encoded, NarrowTensor):
        return None
    codes = encoded.codes.reshape(-1)
    if not codes.size:
        return 0.0
    counts = np.bincount(codes.astype(np.uint8 if codes.itemsize == 1 else np.uint16))  # wraps around: as many different
    shares = counts[counts > 0] / codes.size
    return max(0.0, float(-(shares * np.log2(shares)).sum()))
