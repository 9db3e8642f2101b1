import gc

import numpy as np
import pytest

from qcompress.errors import DataError
from qcompress.measure import LatencySettings, measure_latency

QUICK = LatencySettings(threads=1, budget_seconds=1.0)


def chain(layers):
    """A model whose time is proportional to its number of matrix products."""
    names = ["x", *(f"t{index}" for index in range(layers - 1)), "y"]
    body = "\n".join(f"{names[index + 1]} = MatMul ({names[index]}, w)" for index in range(layers))
    return f"net (float[n, 256] x) => (float[n, 256] y) {{\n{body}\n}}"


@pytest.fixture
def product(write):
    weight = (np.eye(256) + np.random.default_rng(0).normal(size=(256, 256)) * 0.01).astype(np.float32)
    return lambda layers: write(f"chain{layers}.onnx", chain(layers), {"w": weight})


@pytest.fixture
def feeds():
    return [{"x": np.ones((32, 256), np.float32)}, {"x": np.ones((16, 256), np.float32)}]


def test_a_model_is_as_fast_as_itself(product, feeds):
    found = measure_latency(product(4), product(4), feeds, QUICK)
    assert found.speedup.value == pytest.approx(1.0, abs=0.1)
    assert found.speedup.low is not None
    assert found.speedup.high is not None
    assert found.speedup.low - 0.05 <= 1.0 <= found.speedup.high + 0.05
    assert found.float_p50_ms <= found.float_p90_ms


def test_a_smaller_model_is_faster_and_the_other_way_round_slower(product, feeds):
    faster = measure_latency(product(12), product(3), feeds, QUICK)
    slower = measure_latency(product(3), product(12), feeds, QUICK)
    assert 2.0 < faster.speedup.value < 6.0
    assert slower.speedup.value == pytest.approx(1 / faster.speedup.value, rel=0.3)
    assert faster.float_p50_ms > 2 * faster.compressed_p50_ms


def test_the_report_states_the_conditions(product, feeds):
    found = measure_latency(product(2), product(2), feeds, QUICK)
    assert found.threads == 1
    assert found.cores >= 1
    assert found.runtime.startswith("onnxruntime 1.")
    assert not found.spinning
    assert found.feed_shapes == {"x": (32, 256)}
    assert found.runs >= 2 * found.rounds  # two turns of each model in a round


def test_rounds_can_be_limited(product, feeds):
    found = measure_latency(product(2), product(2), feeds, LatencySettings(threads=1, max_rounds=3))
    assert found.rounds == 3
    assert found.speedup.low is None  # three rounds allow no statement of 95 %


def test_without_time_there_are_still_enough_rounds_for_an_interval(product, feeds):
    found = measure_latency(product(2), product(2), feeds, LatencySettings(threads=1, budget_seconds=0.05))
    assert found.rounds >= 1
    assert found.rounds < 200


def test_garbage_collection_is_on_again_afterwards(product, feeds):
    measure_latency(product(2), product(2), feeds, LatencySettings(threads=1, max_rounds=1))
    assert gc.isenabled()


def test_no_feed_is_an_error(product):
    with pytest.raises(DataError, match="no input"):
        measure_latency(product(2), product(2), [])
