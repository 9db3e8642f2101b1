"""Kernel times of real sessions, and how calls become times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from text_models import proto_of

from qcompress.errors import DataError
from qcompress.graph import NodeFacts
from qcompress.measure import profile as profiles
from qcompress.measure.machine import machine_facts
from qcompress.measure.profile import ProfileSettings, profile_kernels, profile_models, summarize_events
from qcompress.runtime import KernelEvent, SessionSettings, open_session

SAMPLES = Path(__file__).resolve().parents[3] / "sample_models"
QUICK = ProfileSettings(threads=1, seconds=0.6)

BRANCHES = """
<ir_version: 8, opset_import: ["": 17]>
net (float[n, 64] x, bool c) => (float[n, 64] y) {
    [first] a = MatMul (x, w)
    [choice] b = If (c) <
        then_branch = yes () => (float[n, 64] t) { [inner] s = MatMul (a, w) [inner_too] t = Relu (s) },
        else_branch = no () => (float[n, 64] e) { e = Neg (a) }
    >
    [last] y = Relu (b)
}
"""


@pytest.fixture
def branches(tmp_path):
    path = tmp_path / "branches.onnx"
    path.write_bytes(proto_of(BRANCHES, {"w": (64, 64)}).SerializeToString())
    return path


@pytest.fixture
def digits():
    with np.load(SAMPLES / "digits_cnn.calib.npz") as stored:
        (name,) = stored.files
        return [{name: stored[name][:64]}]


def test_kernels_of_a_real_model_take_about_as_long_as_its_runs(digits):
    found = profile_models({"cnn": SAMPLES / "digits_cnn.onnx"}, digits, QUICK)["cnn"]
    assert found.turns >= QUICK.min_runs
    assert 0.6 * found.ms < sum(kernel.ms for kernel in found.kernels) < 1.6 * found.ms
    assert sum(kernel.kernel in ("Conv", "FusedConv") for kernel in found.kernels) > 5
    assert all(kernel.outputs for kernel in found.kernels)


def test_kernels_come_in_the_order_they_run(digits):
    kernels = profile_kernels(SAMPLES / "digits_cnn.onnx", digits, QUICK)
    written = {}
    for position, kernel in enumerate(kernels):
        assert all(written.get(name, -1) < position for name in kernel.inputs)
        written.update(dict.fromkeys(kernel.outputs, position))


def test_bodies_are_part_of_their_node(branches):
    feed = {"x": np.ones((8, 64), np.float32), "c": np.array(True)}
    assert [kernel.name for kernel in profile_kernels(branches, [feed], QUICK)] == ["first", "choice", "last"]


def test_models_that_are_slow_are_measured_one_after_the_other(branches, monkeypatch):
    monkeypatch.setattr(profiles, "SLOW_SECONDS", 0.0)
    feed = {"x": np.ones((8, 64), np.float32), "c": np.array(False)}
    found = profile_models({"one": branches, "two": branches}, [feed], QUICK)
    assert all(item.ms > 0.0 and len(item.kernels) == 3 for item in found.values())


def test_no_feed_is_an_error(branches):
    with pytest.raises(DataError, match="no input"):
        profile_kernels(branches, [])


def test_a_profile_leaves_no_file(branches, tmp_path):
    session = open_session(branches, SessionSettings(1, profile=tmp_path / "calls"))
    for _ in range(2):
        session.run({"x": np.ones((8, 64), np.float32), "c": np.array(True)})
    events = session.stop_profiling()
    assert [(event.run, event.name) for event in events] == [
        (run, name) for run in (0, 1) for name in ("first", "choice", "last")
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["branches.onnx"]
    assert open_session(branches).stop_profiling() == ()


def calls(run: int, *times: float, names: str = "ab") -> list[KernelEvent]:
    return [KernelEvent(run, name, name.upper(), time) for name, time in zip(names, times, strict=True)]


GRAPH = [NodeFacts("a", "A", "", ("x", "w"), ("t",), ()), NodeFacts("", "B", "", ("t",), ("y",), ())]


def test_a_turn_counts_with_its_quiet_runs_and_the_median_turn_counts():
    turns = [[*calls(0, 10.0, 20.0), *calls(1, 900.0, 20.0)], calls(2, 12.0, 22.0), calls(3, 800.0, 24.0)]
    first, second = summarize_events(turns, GRAPH)
    assert first.ms == pytest.approx(0.0990, abs=1e-4)  # of 99 (near the quicker of 10 and 900), 12 and 800 the median
    assert second.ms == pytest.approx(0.022)
    assert (first.inputs, second.outputs) == (("x", "w"), ("y",))


def test_runs_in_another_order_do_not_count():
    turns = [[*calls(0, 1.0, 1.0, names="ba"), *calls(1, 10.0, 20.0)]]
    assert [kernel.ms for kernel in summarize_events(turns, GRAPH)] == [0.01, 0.02]


def test_a_graph_that_does_not_fit_tells_no_tensors():
    found = summarize_events([calls(0, 10.0, 20.0)], GRAPH[:1])
    assert [(kernel.name, kernel.inputs, kernel.outputs) for kernel in found] == [("a", (), ()), ("b", (), ())]
    assert summarize_events([], GRAPH) == ()


def test_the_machine_is_named():
    facts = machine_facts(3)
    assert facts.cpu
    assert facts.cores >= 1
    assert facts.threads == 3
    assert facts.runtime.startswith("onnxruntime ")
