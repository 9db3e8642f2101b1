"""Models on a real Ray cluster of this machine, a worker of it killed midway; skipped where Ray is not installed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from small_models import Sample

from qcompress.errors import EngineError
from qcompress.zoo.engines import ENGINES, EngineSettings
from qcompress.zoo.jobs import Event, Job, Kind, Status

ROOT = Path(__file__).resolve().parents[3]
OPTIONS: dict[str, tuple[str, ...]] = {"--recipe": ("int8-weights",), "--no-latency": ()}

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two cores."""
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield started.address
    ray.shutdown()
    started.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def jobs_of(sample: Sample, folder: Path, count: int) -> list[Job]:
    """The same model under several names."""
    found = []
    for index in range(count):
        shutil.copy(sample.model, folder / f"{index}.onnx")
        target = str(folder / "out" / f"{index}.onnx")
        found.append(
            Job(str(index), str(folder / f"{index}.onnx"), target, str(sample.calib), options=OPTIONS, folder=str(folder))
        )
    return found


def test_a_worker_killed_midway_changes_no_result(cluster: str, mlp: Sample, tmp_path: Path) -> None:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind is Kind.STARTED and sum(item.kind is Kind.STARTED for item in heard) == 1:
            os.kill(int(event.text.rpartition(":")[2]), signal.SIGKILL)

    engine = ENGINES["ray"](EngineSettings(address=cluster, scratch=str(tmp_path / "scratch")))
    with closing(engine.run(jobs_of(mlp, tmp_path, 3), listen)) as ended:
        outcomes = {outcome.name: outcome for outcome in ended}
    assert {outcome.status for outcome in outcomes.values()} == {Status.DONE}
    assert len({(tmp_path / "out" / f"{name}.onnx").read_bytes() for name in outcomes}) == 1
    victim = heard[0].job
    assert outcomes[victim].attempts == 2
    assert Kind.RETRIED in {event.kind for event in heard if event.job == victim}


def test_leaving_early_ends_the_work(cluster: str, mlp: Sample, tmp_path: Path) -> None:
    slow, broken = jobs_of(mlp, tmp_path, 2)
    (tmp_path / "slow.py").write_text("import time\ndef batches():\n    open('began', 'w').close(); time.sleep(600)\n")
    slow = Job(slow.name, slow.model, slow.target, "slow:batches", options=OPTIONS, folder=str(tmp_path))
    waits = "import os, time\ndef batches():\n    while not os.path.exists('began'): time.sleep(0.1)\n    return 1\n"
    (tmp_path / "broken.py").write_text(waits)
    broken = Job(broken.name, broken.model, broken.target, "broken:batches", options=OPTIONS, folder=str(tmp_path))
    engine = ENGINES["ray"](EngineSettings(address=cluster, scratch=str(tmp_path / "scratch")))
    with closing(engine.run([slow, broken], lambda event: None)) as ended:
        outcome = next(ended)
        assert (outcome.name, outcome.status) == ("1", Status.UNUSABLE)
    assert list((tmp_path / "scratch").glob("job-*")) == []


@pytest.mark.parametrize(("address", "told"), [(None, "needs a cluster"), ("127.0.0.1:1", "no Ray cluster at")])
def test_a_cluster_that_is_not_there_is_told(address: str | None, told: str, mlp: Sample, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    engine = ENGINES["ray"](EngineSettings(address=address, scratch=str(tmp_path)))
    with pytest.raises(EngineError, match=told):
        list(engine.run(jobs_of(mlp, tmp_path, 1), lambda event: None))


def test_without_ray_the_extra_is_named(mlp: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"qcompress\[ray\]"):
        list(ENGINES["ray"](EngineSettings(address="x")).run(jobs_of(mlp, tmp_path, 1), lambda event: None))
