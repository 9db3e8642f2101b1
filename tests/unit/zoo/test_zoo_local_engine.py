"""Processes of this machine: forked from one that has everything loaded, as many as memory allows, none left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from many_models import TROUBLE, make_model

from qcompress.zoo.engines import ENGINES, EngineSettings
from qcompress.zoo.isolation import environment
from qcompress.zoo.jobs import Event, Job, Kind, Limits, Status
from qcompress.zoo.processes import tree_memory
from qcompress.zoo.starting import CAN_FORK, Nursery, Order, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems start interpreters")


def said(process: object) -> str:
    stdout = process.stdout  # type: ignore[attr-defined]
    text = stdout.read().decode()
    stdout.close()
    process.stdin.close()  # type: ignore[attr-defined]
    return str(text)


def test_a_fork_does_what_an_interpreter_does(tmp_path: Path):
    assert CAN_FORK
    nursery = Nursery(environment(1))
    version, missing = (
        Order(["--version"], "", environment(1)),
        Order(["inspect", "missing.onnx"], str(tmp_path), environment(1)),
    )
    try:
        for number, starter in enumerate((start, nursery.start)):
            with (tmp_path / f"log{number}").open("wb") as log:
                process = starter(version, log)
                assert (said(process), process.wait()) == (said_version(), 0)
                process = starter(missing, log)
                assert (said(process), process.wait()) == ("", 3)
        assert (tmp_path / "log0").read_text() == (tmp_path / "log1").read_text() != ""
    finally:
        nursery.close()


def said_version() -> str:
    from qcompress import __version__

    return f"qcompress {__version__}\n"


def test_without_its_nursery_a_job_is_started_as_an_interpreter(tmp_path: Path):
    nursery = Nursery(environment(1))
    with (tmp_path / "log").open("wb") as log:
        process = nursery.start(Order(["--version"], "", environment(1)), log)
        said(process)
        assert nursery._process is not None
        os.kill(nursery._process.pid, signal.SIGKILL)
        nursery._process.wait()
        process = nursery.start(Order(["--version"], "", environment(1)), log)
        assert (said(process), process.wait()) == (said_version(), 0)
    nursery.close()


def jobs(folder: Path, count: int, memory: int = 0) -> list[Job]:
    found = []
    for index in range(count):
        model = make_model(folder, f"m{index}", index)
        options = {"--mode": ("weights",), "--no-latency": ()}
        found.append(Job(model.stem, str(model), str(folder / "out" / model.name), options=options, memory=memory))
    return found


def test_jobs_that_do_not_fit_together_run_one_after_the_other(tmp_path: Path):
    engine = ENGINES["local"](EngineSettings(jobs=2, memory=10 << 30, scratch=str(tmp_path / "scratch")))
    heard: list[Event] = []
    outcomes = list(engine.run(jobs(tmp_path, 2, memory=6 << 30), heard.append))
    assert [outcome.status for outcome in outcomes] == [Status.DONE] * 2
    assert [event.kind for event in heard if event.kind in (Kind.STARTED, Kind.ENDED)] == [Kind.STARTED, Kind.ENDED] * 2
    assert 0 < engine.peak < 10 << 30
    assert list((tmp_path / "scratch").iterdir()) == []


HEAVY = """
import time

import numpy as np


KEPT = []


def heavy():
    if not KEPT:
        KEPT.append(np.ones(75_000_000))  # 600 MB, touched
        time.sleep(2.0)
    yield {"x": np.zeros((16, WIDTH), np.float32) + KEPT[0][0]}
"""


def slow_jobs(folder: Path, count: int) -> list[Job]:
    found = []
    for index, job in enumerate(jobs(folder, count)):
        (folder / f"heavy{index}.py").write_text(HEAVY.replace("WIDTH", str(16 + 4 * index)))
        found.append(replace(job, data=f"heavy{index}:heavy", folder=str(folder), memory=100_000_000))
    return found


def test_when_memory_is_short_one_waits_for_the_other(tmp_path: Path):
    limit = tree_memory(os.getpid()) + 1_300_000_000
    engine = ENGINES["local"](EngineSettings(jobs=2, memory=limit, scratch=str(tmp_path / "scratch")))
    heard: list[Event] = []
    outcomes = list(engine.run(slow_jobs(tmp_path, 2), heard.append))
    assert [(outcome.status, outcome.cause) for outcome in outcomes] == [(Status.DONE, "")] * 2
    assert [outcome.attempts for outcome in outcomes] == [1, 2]
    assert [event.text for event in heard if event.kind is Kind.RETRIED] == [
        "memory was short; started again when there is more"
    ]
    assert engine.peak < 1.2 * limit  # between two looks a job may take some more


ONCE = """
import os
import time

import numpy as np


def batches():
    if not os.path.exists("began"):
        open("began", "w").close()
        time.sleep(600)
    yield {"x": np.zeros((16, 16), np.float32)}
"""


def test_jobs_that_die_with_their_nursery_are_started_again(tmp_path: Path):
    (tmp_path / "once.py").write_text(ONCE)
    (job,) = (replace(job, data="once:batches", folder=str(tmp_path)) for job in jobs(tmp_path, 1))
    engine = ENGINES["local"](EngineSettings(jobs=1, scratch=str(tmp_path / "scratch")))

    def end_nursery() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        os.kill(engine._nursery._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]

    killer = Thread(target=end_nursery)
    killer.start()
    (outcome,) = engine.run([job], lambda event: None)
    killer.join()
    assert (outcome.status, outcome.attempts) == (Status.DONE, 2)


def test_leaving_early_leaves_no_process(tmp_path: Path):
    (tmp_path / "trouble.py").write_text(TROUBLE)
    hanging = [Job(job.name, job.model, job.target, "trouble:hang", folder=str(tmp_path)) for job in jobs(tmp_path, 2)]
    engine = ENGINES["local"](EngineSettings(jobs=2, scratch=str(tmp_path / "scratch")))
    heard: list[Event] = []

    class EnoughError(Exception):
        pass

    def listen(event: Event) -> None:
        heard.append(event)
        if len(heard) == 2:
            raise EnoughError

    before = children()
    with pytest.raises(EnoughError), closing(engine.run(hanging, listen)) as outcomes:
        next(outcomes)
    time.sleep(0.1)
    assert children() == before
    assert list((tmp_path / "scratch").iterdir()) == []


def children() -> set[str]:
    """Processes below this one, of all generations."""
    found, waiting = set(), [str(os.getpid())]
    while waiting:
        number = waiting.pop()
        for listed in Path(f"/proc/{number}/task").glob("*/children"):
            below = listed.read_text().split()
            found |= set(below)
            waiting += below
    return found


def test_a_job_ends_at_its_own_limit_of_time(tmp_path: Path):
    (tmp_path / "trouble.py").write_text(TROUBLE)
    (job,) = jobs(tmp_path, 1)
    hanging = Job(job.name, job.model, job.target, "trouble:hang", limits=Limits(0.5), folder=str(tmp_path))
    engine = ENGINES["local"](EngineSettings(scratch=str(tmp_path / "scratch")))
    (outcome,) = engine.run([hanging], lambda event: None)
    assert (outcome.status, outcome.cause) == (Status.TIMED_OUT, "no end after 0.5 s")
    assert 0.5 <= outcome.seconds < 5


def test_memory_of_a_tree_counts_what_is_below():
    own, tree = tree_memory(os.getpid(), children=False), tree_memory(os.getpid())
    assert 10_000_000 < own <= tree
    assert tree_memory(2**22 + 1) == 0
