"""What is known about a model and its tensors: ranges, statistics, signatures, nodes to add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcompress.types.arrays import Array


@dataclass(frozen=True, slots=True)
class TensorRange:
    """The interval of values that a quantized tensor must represent."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """A model input or output: name, numpy dtype name and shape (int: fixed, str: named, None: free)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class StatisticsNeeds:
    """What the algorithms of a run want to know about activations; the data runs once for the union.

    ``ranges``: tensors whose range is wanted. ``moments``: tensor -> channel axis, for the second moment
    E[x^2] of each channel over samples and all other axes.
    """

    ranges: frozenset[str] = frozenset()
    moments: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one pass over the calibration data found.

    ``second_moments``: tensor -> (channels,), float64. ``shapes``: tensor -> shape in the first feed.
    ``alternatives``: method -> tensor -> the range that it would have chosen.
    """

    ranges: Mapping[str, TensorRange]
    second_moments: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    samples: int
    alternatives: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelSamples:
    """One tensor, channel by channel.

    ``low`` and ``high``: (feeds, channels), exact. ``rows``: (positions, channels), float32, from the last feeds.
    ``feeds``: (positions,), the feed each row comes from, an index into ``low`` and ``high``.
    """

    low: Array
    high: Array
    rows: Array
    feeds: Array

    @property
    def largest(self) -> Array:
        """(channels,), float64: the largest magnitude seen."""
        return np.asarray(np.maximum(-self.low, self.high).max(axis=0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node to add to a graph, as plain data, so that rooms without the graph library can describe one."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float | str | tuple[int, ...]] = field(default_factory=dict)
    name: str = ""
    domain: str = ""
