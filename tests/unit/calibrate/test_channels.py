"""Channel samples against numpy: extremes of each feed, rows that are rows, both layouts, damaged data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from text_models import load

from qcompress.calibrate import CalibrationSettings, collect, collect_channels
from qcompress.calibrate.channels import ROW_FEEDS
from qcompress.errors import CalibrationError
from qcompress.progress import SILENT
from qcompress.recipe import RangeMethod
from qcompress.types import StatisticsNeeds

TEXT = """<ir_version: 8, opset_import: ["": {opset}]> net (float[n, 6, h, w] x) => (float[n, h, w, 6] y) {{
    r = Relu (x) \n y = Transpose <perm = [0, 2, 3, 1]> (r) }}"""


@dataclass(frozen=True)
class OneBatch:
    feed: dict[str, np.ndarray]
    samples: int


def images(count: int = 9, size: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(0.3, 1.0, (1, 6, size, size + 1)).astype(np.float32) for _ in range(count)]


def look(folder, feeds, opset=17):
    model = load(folder, TEXT.format(opset=opset), {})
    batches = [OneBatch({"x": feed}, 1) for feed in feeds]
    settings = CalibrationSettings(threads=1, total=len(feeds))
    return collect_channels(model, {"r": 1, "y": -1}, batches, settings, SILENT)


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("size", [5, 200])
def test_extremes_and_rows_of_both_layouts(opset, size, tmp_path):
    feeds = images(size=size, count=9 if size < 50 else 3)
    found = look(tmp_path, feeds, opset)
    relu = np.concatenate([np.maximum(feed, 0.0) for feed in feeds])
    for samples in found.values():
        np.testing.assert_array_equal(samples.low, relu.min(axis=(2, 3)))
        np.testing.assert_array_equal(samples.high, relu.max(axis=(2, 3)))
        np.testing.assert_array_equal(samples.largest, relu.max(axis=(0, 2, 3)))
        assert samples.rows.dtype == np.float32
        assert samples.rows.shape == (len(samples.feeds), 6)
        assert sorted(set(samples.feeds)) == list(range(max(0, len(feeds) - ROW_FEEDS), len(feeds)))
        for row, feed in list(zip(samples.rows, samples.feeds, strict=True))[::7]:
            assert (np.moveaxis(relu[feed], 0, -1).reshape(-1, 6) == row).all(axis=1).any()


def test_values_that_no_range_can_hold_are_refused(tmp_path):
    feeds = images(3)
    feeds[1][0, 2, 1, 1] = np.inf
    with pytest.raises(CalibrationError, match="sample 2"):
        look(tmp_path, feeds)


def test_ranges_of_several_methods_come_from_one_pass(tmp_path):
    model = load(tmp_path, TEXT.format(opset=17), {})
    batches = [OneBatch({"x": feed}, 1) for feed in images(4, 40)]
    methods = (RangeMethod.MINMAX, RangeMethod.PERCENTILE, RangeMethod.ENTROPY)
    needs = StatisticsNeeds(frozenset({"r", "x"}))
    found = collect(model, needs, batches, CalibrationSettings(threads=1, total=4, alternatives=methods), SILENT)
    assert set(found.alternatives) == {"minmax", "percentile", "entropy"}
    for method in methods:
        alone = collect(model, needs, batches, CalibrationSettings(method, threads=1, total=4), SILENT)
        assert found.alternatives[method.value] == alone.ranges
