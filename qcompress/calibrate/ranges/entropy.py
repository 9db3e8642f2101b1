"""The range whose quantized distribution is nearest to the observed one.

For each candidate of i bins of |x|: P is the histogram up to i with everything beyond counted in its last bin; Q is the
histogram up to i merged into the levels of the scheme, each level's count spread evenly over its non-empty bins. The
candidate of least Kullback-Leibler divergence KL(P || Q) wins.

Source: Migacz, 8-bit inference with TensorRT, GPU Technology Conference 2017, slides 26 to 34.
"""

from __future__ import annotations

import numpy as np

from qcompress.calibrate.histogram import BINS
from qcompress.calibrate.ranges.record import TensorRecord, with_zero
from qcompress.types import Array, QuantScheme, TensorRange

FLOOR = 1e-4
"""The count that stands for an empty bin of Q where P is not empty; the divergence would be infinite."""


def entropy(record: TensorRecord, scheme: QuantScheme) -> TensorRange:
    """The clip of |x| of least divergence: all levels for a tensor of one sign, half of them for each sign otherwise."""
    histogram = record.histogram.from_zero()
    full = with_zero(histogram.minimum, histogram.maximum)
    (used,) = np.nonzero(histogram.counts)
    indices = used + histogram.first
    indices = np.where(indices < 0, -1 - indices, indices)  # |x|: bin -1 mirrors bin 0
    counts = np.bincount(indices, histogram.counts[used], minlength=BINS)[:BINS]
    one_sided = (histogram.minimum >= 0.0 or histogram.maximum <= 0.0) and not (scheme.symmetric and scheme.signed)
    levels = 2**scheme.bits if one_sided else 2 ** (scheme.bits - 1)
    last = int(indices.max(initial=0)) + 1
    if last <= levels:
        return full
    clips = np.arange(levels, last + 1)
    best = int(clips[np.argmin(_divergences(counts, clips, levels))])
    clip = best * histogram.width
    return TensorRange(max(full.low, -clip), min(full.high, clip))


def _divergences(counts: Array, clips: Array, levels: int) -> Array:
    """KL(P || Q) of each candidate number of bins, (clips,).

    Q is constant within a level, so a level adds sum(P log P) - sum(P) log(Q), and both sums come from prefix sums.
    """
    mass = _prefix(counts)
    bins = _prefix(counts > 0)
    logs = _prefix(counts * np.log(np.maximum(counts, 1.0)))
    edges = np.rint(np.arange(levels + 1) * (clips[:, None] / levels)).astype(np.int64)  # (clips, levels + 1)
    total = mass[-1]
    inside = np.diff(mass[edges], axis=1)
    occupied = np.diff(bins[edges], axis=1)
    outside = total - mass[clips]
    last = counts[clips - 1]
    expected = inside.copy()
    expected[:, -1] += outside  # P counts what is clipped in its last bin
    log_p = logs[clips] - last * np.log(np.maximum(last, 1.0)) + (last + outside) * np.log(np.maximum(last + outside, 1.0))
    spread = np.maximum(inside, 1.0) / np.maximum(occupied, 1.0) / np.maximum(mass[clips], 1.0)[:, None]
    # Q has nothing in an empty last bin, where P has all that is clipped.
    alone = np.where(last == 0, outside, 0.0)
    expected[:, -1] -= alone
    cross = (expected * np.log(spread)).sum(axis=1) + alone * np.log(FLOOR / np.maximum(mass[clips], 1.0))
    return np.asarray((log_p - cross) / total - np.log(total))


def _prefix(values: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
