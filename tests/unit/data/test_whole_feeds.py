"""Feeds that hold several samples, and made-up values of narrow types."""

from __future__ import annotations

import numpy as np

from qcompress.data import DataOptions, cut, open_dataset
from qcompress.types import TensorSignature


def test_one_held_out_feed_of_several_samples_is_reported_on():
    """Five feeds of three samples: a quarter is one feed, which cannot be cut again."""
    dataset = open_dataset("random", (TensorSignature("x", "float32", (3, 4)),), DataOptions())
    parts = cut(dataset, 0.25, 0)
    assert parts.choose is None
    assert parts.report is not None
    assert (dataset.samples, parts.fit.samples, parts.report.samples) == (15, 12, 3)


def test_many_feeds_of_several_samples_are_cut_in_three():
    dataset = open_dataset("random", (TensorSignature("x", "float32", (2, 4)),), DataOptions(random_samples=32))
    parts = cut(dataset, 0.25, 0)
    assert parts.choose is not None
    assert parts.report is not None
    assert parts.fit.samples + parts.choose.samples + parts.report.samples == 32


def test_values_of_two_and_four_bits_can_be_made_up():
    for dtype in ("int4", "uint4", "int2", "uint2"):
        (batch, *_) = open_dataset("random", (TensorSignature("x", dtype, (2, 3)),), DataOptions()).batches()
        assert batch.feed["x"].dtype == np.dtype(dtype)
        assert set(batch.feed["x"].astype(np.int32).ravel().tolist()) <= {0, 1}
