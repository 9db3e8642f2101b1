"""Models on a real Dask cluster: a scheduler and two workers as processes of this machine, one of them killed midway."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from small_models import Sample

from qcompress.errors import EngineError
from qcompress.zoo.engines import ENGINES, EngineSettings
from qcompress.zoo.jobs import Event, Job, Kind, Outcome, Status
from qcompress.zoo.run import BatchSettings, Decision, run_batch

distributed = pytest.importorskip("distributed", reason="the extra [dask] is not installed")

ROOT = Path(__file__).resolve().parents[3]
OPTIONS: dict[str, tuple[str, ...]] = {"--recipe": ("int8-weights",), "--no-latency": ()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers of one thread; they end by themselves when the tests were killed."""
    folder = tmp_path_factory.mktemp("dask")
    found = folder / "scheduler.json"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QCOMPRESS_")}
    environment |= {"PYTHONPATH": str(ROOT), "QCOMPRESS_CACHE": ""}
    quiet = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(found)]
    commands = (
        ["scheduler", *quiet, "--port", "0", "--idle-timeout", "120"],
        ["worker", *quiet, "--nworkers", "2", "--nthreads", "1", "--local-directory", str(folder), "--death-timeout", "30"],
    )
    with (folder / "log").open("wb") as log:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
            for words in commands
        ]
        try:
            until = time.monotonic() + 60
            while not found.exists() and time.monotonic() < until:
                time.sleep(0.1)
            address = json.loads(found.read_text())["address"]
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
            yield address
        finally:
            for process in running:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(autouse=True)
def both_workers(cluster: str) -> None:
    """Each test begins with two workers; those that one has killed are started again."""
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)


class Heard:
    """Keeps what it hears; does something at the first stage of a model."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []

    def begin(self, decisions: Sequence[Decision]) -> None:
        pass

    def heard(self, event: Event) -> None:
        self.events.append(event)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Killer(Heard):
    """Kills the worker that begins a model first."""

    def __init__(self, pids: dict[str, int]) -> None:
        super().__init__()
        self.pids = pids
        self.victim = ""

    def heard(self, event: Event) -> None:
        super().heard(event)
        if event.kind is Kind.STAGE and not self.victim:
            self.victim = event.job
            worker = next(item.text for item in self.events if item.kind is Kind.STARTED and item.job == event.job)
            os.kill(self.pids[worker], signal.SIGKILL)


def jobs_of(sample: Sample, folder: Path, out: str, count: int, prefix: str = "") -> list[Job]:
    """The same model under several names; ``prefix`` makes URLs of paths."""
    found = []
    for index in range(count):
        model = folder / f"{index}.onnx"
        if not model.exists():
            shutil.copy(sample.model, model)
        target = f"{prefix}{folder}/{out}/{index}.onnx"
        data = f"{prefix}{sample.calib}"
        found.append(Job(str(index), f"{prefix}{model}", target, data, options=OPTIONS, folder=str(folder)))
    return found


def test_a_worker_killed_midway_changes_no_result(cluster: str, mlp: Sample, tmp_path: Path) -> None:
    """Models, data and results are at URLs, so each worker fetches what it needs and writes back what it made."""
    with distributed.Client(cluster, set_as_default=False) as client:
        pids = client.run(os.getpid)
    assert len(pids) == 2
    watcher = Killer(pids)
    settings = BatchSettings("dask", address=cluster)
    jobs, out = jobs_of(mlp, tmp_path, "far", 4, "file://"), f"file://{tmp_path}/far"
    summary = run_batch(jobs, out, settings, watcher)
    assert {outcome.status for outcome in summary.outcomes} == {Status.DONE}
    assert summary.exit_code == 0
    assert len({outcome.worker for outcome in summary.outcomes}) >= 1
    attempts = {outcome.name: outcome.attempts for outcome in summary.outcomes}
    assert attempts[watcher.victim] == 2
    assert [event.job for event in watcher.events if event.kind is Kind.RETRIED] == [watcher.victim]
    kinds = [event.kind for event in watcher.events if event.job == "3"]
    assert (kinds[0], kinds[-1]) == (Kind.STARTED, Kind.ENDED)
    near = run_batch(jobs_of(mlp, tmp_path, "near", 2), tmp_path / "near", BatchSettings(), Heard())
    assert near.exit_code == 0
    models = {
        (tmp_path / place / f"{name}.onnx").read_bytes()
        for place, name in (*(("far", i) for i in range(4)), ("near", 0), ("near", 1))
    }
    assert len(models) == 1
    again = Heard()
    summary = run_batch(jobs, out, settings, again)
    assert all(outcome.reused for outcome in summary.outcomes)
    assert again.events == []


def script(folder: Path, name: str, body: str) -> str:
    """A data function."""
    (folder / f"{name}.py").write_text(f"import os, signal, time\ndef batches():\n    {body}\n")
    return f"{name}:batches"


def test_a_model_that_ends_its_workers_is_given_up(cluster: str, mlp: Sample, tmp_path: Path) -> None:
    """It kills what its process was forked from, and that one's parent. Dask's nanny starts workers again; the other model is done."""
    deadly, good = jobs_of(mlp, tmp_path, "out", 2)
    data = script(
        tmp_path,
        "deadly",
        "os.kill(int(open(f'/proc/{os.getppid()}/stat').read().split()[3]), signal.SIGKILL); time.sleep(60)",
    )
    deadly = Job(deadly.name, deadly.model, deadly.target, data, options=OPTIONS, folder=str(tmp_path))
    engine = ENGINES["dask"](EngineSettings(address=cluster, retries=1, scratch=str(tmp_path / "scratch")))
    with closing(engine.run([deadly, good], lambda event: None)) as ended:
        outcomes = {outcome.name: outcome for outcome in ended}
    assert outcomes["1"].status is Status.DONE
    assert outcomes["0"].status is Status.CRASHED
    assert outcomes["0"].cause == "2 workers died while it ran"
    assert outcomes["0"].attempts == 2


def test_leaving_early_ends_the_work(cluster: str, mlp: Sample, tmp_path: Path) -> None:
    """A job that hangs on a worker does not outlive the batch."""
    slow, broken = jobs_of(mlp, tmp_path, "out", 2)
    data = script(tmp_path, "slow", "open('began', 'w').close(); time.sleep(600)")
    slow = Job(slow.name, slow.model, slow.target, data, options=OPTIONS, folder=str(tmp_path))
    data = script(
        tmp_path, "broken", "\n    ".join(("while not os.path.exists('began'):", "    time.sleep(0.1)", "return 1"))
    )
    broken = Job(broken.name, broken.model, broken.target, data, options=OPTIONS, folder=str(tmp_path))
    engine = ENGINES["dask"](EngineSettings(address=cluster, scratch=str(tmp_path / "scratch")))
    with closing(engine.run([slow, broken], lambda event: None)) as ended:
        outcome = next(ended)
        assert (outcome.name, outcome.status) == ("1", Status.UNUSABLE)
        assert "broken:batches" in outcome.cause
        assert len(list((tmp_path / "scratch").glob("job-*"))) == 1
    assert list((tmp_path / "scratch").glob("job-*")) == []
    assert not any(str(tmp_path / "0.onnx").encode() in words for words in _command_lines())


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue


def test_workers_with_other_versions_are_refused(
    cluster: str, mlp: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcompress.pipeline.versions", lambda: {"qcompress": "0.0.0", "onnxruntime": "1.0"})
    engine = ENGINES["dask"](EngineSettings(address=cluster, scratch=str(tmp_path / "scratch")))
    (outcome,) = engine.run(jobs_of(mlp, tmp_path, "out", 1), lambda event: None)
    assert outcome.status is Status.UNUSABLE
    assert outcome.hint == "give every worker qcompress 0.0.0 and onnxruntime 1.0"


@pytest.mark.parametrize(
    ("address", "told"),
    [(None, "needs a cluster"), ("tcp://127.0.0.1:1", "no Dask scheduler at"), ("no://such", "no Dask scheduler at")],
)
def test_a_cluster_that_is_not_there_is_told(
    address: str | None, told: str, mlp: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qcompress.zoo.engines.dask.PATIENCE_SECONDS", 1.0)
    engine = ENGINES["dask"](EngineSettings(address=address, scratch=str(tmp_path)))
    with pytest.raises(EngineError, match=told):
        list(engine.run(jobs_of(mlp, tmp_path, "out", 1), lambda event: None))


def test_without_dask_the_extra_is_named(mlp: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EngineError, match=r"qcompress\[dask\]"):
        list(ENGINES["dask"](EngineSettings(address="x")).run(jobs_of(mlp, tmp_path, "out", 1), lambda event: None))
