"""The machines of a Ray cluster: one task a model, with as many cores and as much memory as it needs, retried by Ray.

Models, data and results must lie where every machine sees them under the same name: a shared disk, or URLs.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompress.errors import EngineError
from qcompress.zoo.engines.interface import EngineSettings, Listener
from qcompress.zoo.jobs import Event, Job, Kind, Outcome, Status, event_from_json, outcome_from_json, to_json
from qcompress.zoo.starting import Nursery

if TYPE_CHECKING:
    from types import ModuleType

PATIENCE_SECONDS = 10.0
LOOK_SECONDS = 0.2
FAREWELL_SECONDS = 10.0
"""So long the end waits for workers to end what nobody wants any more."""


@dataclass(slots=True)
class RayEngine:
    """Hands the jobs to a cluster, as many as it has room for, and passes on what its workers tell."""

    settings: EngineSettings
    peak: int = 0
    _attempts: dict[str, int] = field(default_factory=dict)

    def run(self, jobs: Sequence[Job], listen: Listener) -> Generator[Outcome, None, None]:
        """Run the jobs; give each outcome as soon as it is known.

        Raises:
            EngineError: Ray is not installed, or there is no cluster at the address.
        """
        if not jobs:
            return
        ray = _library()
        _connect(ray, self.settings.address)
        try:
            board = ray.remote(num_cpus=0)(_Board).remote()
            yield from self._outcomes(ray, board, jobs, listen)
        except ray.exceptions.RaySystemError as error:
            raise EngineError(f"the Ray cluster is gone: {error}", "start it again; what was done stands") from error
        finally:
            ray.shutdown()

    def _outcomes(self, ray: Any, board: Any, jobs: Sequence[Job], listen: Listener) -> Generator[Outcome, None, None]:
        start = _Starter.of(ray, self.settings, len(jobs), board)
        waiting, running = deque(jobs), dict[Any, Job]()
        try:
            while waiting or running:
                while waiting and len(running) < start.at_once:
                    job = waiting.popleft()
                    running[start.begin(job)] = job
                done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_SECONDS)
                for event in _told(ray, board):
                    self._hear(event, listen)
                for reference in done:
                    yield self._ended(ray, running.pop(reference), reference)
        finally:
            _stop(ray, list(running))

    def _hear(self, event: Event, listen: Listener) -> None:
        """Pass an event on; a second start is a retry."""
        if event.kind is Kind.STARTED:
            self._attempts[event.job] = self._attempts.get(event.job, 0) + 1
            if self._attempts[event.job] > 1:
                event = replace(event, kind=Kind.RETRIED, text=f"its worker died; started again on {event.text}")
        listen(event)

    def _ended(self, ray: Any, job: Job, reference: Any) -> Outcome:
        """The outcome of a task that is over."""
        attempts = max(1, self._attempts.get(job.name, 1))
        failed = Outcome(job.name, Status.CRASHED, job.key, hint="look at the workers' logs and memory", attempts=attempts)
        try:
            return replace(outcome_from_json(ray.get(reference)), key=job.key, attempts=attempts)
        except ray.exceptions.OutOfMemoryError:
            return replace(failed, status=Status.OUT_OF_MEMORY, cause="Ray ended it for want of memory on its machine")
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
            return replace(failed, cause=f"{attempts} workers died while it ran" if attempts > 1 else "its worker died")
        except ray.exceptions.RaySystemError:
            raise
        except Exception as error:  # of the worker, in whatever class it arrives
            told = " ".join(str(error).split())[-300:]
            return replace(failed, status=Status.UNUSABLE, cause=f"its worker failed: {type(error).__name__}: {told}")


@dataclass(frozen=True, slots=True)
class _Starter:
    """Starts tasks: how many fit, and with how many cores and how much memory at most each."""

    work: Any
    board: Any
    settings: EngineSettings
    at_once: int
    cores: int
    largest: int

    @classmethod
    def of(cls, ray: Any, settings: EngineSettings, count: int, board: Any) -> _Starter:
        slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        at_once = min(settings.jobs or slots, count)
        largest = max((int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        work = ray.remote(max_retries=settings.retries)(_work)
        return cls(work, board, settings, at_once, max(1, slots // at_once), largest)

    def begin(self, job: Job) -> Any:
        """The reference to the task of a job; it waits for a machine with room."""
        limit = self.settings.memory
        if job.limits.memory is None and limit is not None:
            job = replace(job, limits=replace(job.limits, memory=limit))
        room = {"num_cpus": self.cores, "memory": min(job.memory, self.largest)}
        return self.work.options(**room).remote(job, self.settings.scratch, self.cores, _wanted_versions(), self.board)


class _Board:
    """Where workers write what happens and the engine reads it; Ray keeps one in a process of its own."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def tell(self, text: str) -> None:
        """Write a line."""
        self._texts.append(text)

    def take(self) -> list[str]:
        """Read and wipe off all lines."""
        texts, self._texts = self._texts, []
        return texts


def _work(job: Job, scratch: str, threads: int, wanted: tuple[str, str], board: Any) -> str:
    """On the worker: run one job and tell what it does; the outcome as JSON. A cancelled task is interrupted here."""
    from qcompress.zoo.isolation import POLL_SECONDS, Supervised

    own, where = _wanted_versions(), f"{os.uname().nodename}:{os.getpid()}"
    if own != wanted:
        cause = f"worker {where} has qcompress {own[0]} and onnxruntime {own[1]}"
        hint = f"give every worker qcompress {wanted[0]} and onnxruntime {wanted[1]}"
        return to_json(Outcome(job.name, Status.UNUSABLE, cause=cause, hint=hint))

    def tell(event: Event) -> None:
        board.tell.remote(to_json(event))

    tell(Event(job.name, Kind.STARTED, text=where))
    running = Supervised(job, Path(scratch), threads, _nursery(threads).start)
    try:
        while (outcome := running.poll(tell)) is None:
            time.sleep(POLL_SECONDS)
    except BaseException:
        running.discard()
        raise
    tell(Event(job.name, Kind.ENDED, text=outcome.status))
    return to_json(replace(outcome, worker=where))


@cache
def _nursery(threads: int) -> Nursery:
    """On the worker: what its jobs are forked from; it ends with the worker, which Ray ends when the batch does."""
    from qcompress.zoo.isolation import environment

    return Nursery(environment(threads))


def _wanted_versions() -> tuple[str, str]:
    """Versions of qcompress and onnxruntime here."""
    from qcompress.pipeline import versions

    told = versions()
    return told["qcompress"], told["onnxruntime"]


def _told(ray: Any, board: Any) -> Iterator[Event]:
    for text in ray.get(board.take.remote()):
        yield event_from_json(text)


def _stop(ray: Any, references: list[Any]) -> None:
    """Interrupt what is still running, and wait until it has ended; what does not end is killed."""
    if not references:
        return
    with suppress(Exception):  # the cluster may be gone; the failure that brought us here is the one to tell
        for reference in references:
            ray.cancel(reference, force=False)
        _, left = ray.wait(references, num_returns=len(references), timeout=FAREWELL_SECONDS)
        for reference in left:
            ray.cancel(reference, force=True)


def _library() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError as error:
        raise EngineError("the ray engine needs Ray", "pip install 'qcompress[ray]'") from error
    found: ModuleType = ray
    return found


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster at the address; ``auto`` is the one of this machine, ``local`` a new one that ends with the batch."""
    if not address:
        raise EngineError("the ray engine needs a cluster", "give its address: --address host:6379, auto or local")
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    try:
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), PATIENCE_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise EngineError(f"there is no Ray cluster at {address}: {error}", "start one: ray start --head") from error
