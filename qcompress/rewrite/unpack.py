"""Bytes taken apart into the codes they hold, by a table of all bytes that a Gather looks up.

    packed (bytes) --Cast--> int32 --Gather in (256, 4)--> (bytes, 4)     (codes of 2 bits)

BitShift would do it without a table, but takes one and a half times as long in onnxruntime (1.31: 73 ms instead of 47 for four
million bytes of 4-bit codes), and another runtime rounds where it should drop bits (OpenVINO 2026.4).
"""

from __future__ import annotations

import numpy as np

from qcompress.graph import Value
from qcompress.graph.edit import INT32
from qcompress.rewrite.chain import Chain


def taken_apart(chain: Chain, packed: Value, bits: int, name: str) -> Value:
    """The codes in every byte, uint8, along one more axis: (.., bytes) -> (.., bytes, 8 / bits); ``bits``: 1, 2 or 4."""
    every_byte = np.arange(256, dtype=np.uint8)
    codes = every_byte[:, None] >> (np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)) & np.uint8((1 << bits) - 1)
    table = chain.shared(f"bytes/{bits}", codes)
    places = chain.node("Cast", [packed], f"{name}_bytes", {"to": INT32})
    return chain.node("Gather", [table, places], f"{name}_apart", {"axis": 0})
