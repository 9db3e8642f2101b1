"""The workers of a Dask cluster: one task a model, started again elsewhere when its worker dies.

Models, data and results must lie where every worker sees them under the same name: a shared disk, or URLs. A worker runs as
many models at a time as it has threads; each model is still a process of its own, and its end never ends the worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, get_ident
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from qcompress.errors import EngineError
from qcompress.zoo.engines.interface import EngineSettings, Listener
from qcompress.zoo.jobs import Event, Job, Kind, Outcome, Status, event_from_json, outcome_from_json, to_json
from qcompress.zoo.starting import Nursery

if TYPE_CHECKING:
    from types import ModuleType

PATIENCE_SECONDS = 30.0
"""A cluster that does not answer, or has no worker, for so long is not there."""

LOOK_SECONDS = 5.0
"""How often it looks for new workers when nothing is heard."""

FAREWELL_SECONDS = 10.0
"""So long the end waits for workers to end what nobody wants any more."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker is told."""

    job: Job
    scratch: str
    threads: int
    topic: str
    versions: tuple[str, str]


@dataclass(slots=True)
class DaskEngine:
    """Hands the jobs to a cluster, a few more than it can run at a time, and passes on what its workers tell."""

    settings: EngineSettings
    peak: int = 0
    _attempts: dict[str, int] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    """Jobs that a worker has begun and not ended, as far as was heard."""

    def run(self, jobs: Sequence[Job], listen: Listener) -> Generator[Outcome, None, None]:
        """Run the jobs; give each outcome as soon as it is known.

        Raises:
            EngineError: Dask is not installed, or there is no cluster at the address.
        """
        if not jobs:
            return
        distributed = _library()
        topic = f"qcompress-{uuid4().hex}"
        heard: SimpleQueue[Any] = SimpleQueue()
        client = _connected(distributed, self.settings.address)
        try:
            client.subscribe_topic(topic, lambda event: heard.put(event_from_json(event[1])))
            yield from self._outcomes(client, deque(self._tasks(jobs, topic)), heard, listen)
        finally:
            _close(client, topic)

    def _tasks(self, jobs: Sequence[Job], topic: str) -> list[_Task]:
        from qcompress.pipeline import versions

        told = versions()
        memory = self.settings.memory
        return [
            _Task(
                job if job.limits.memory or memory is None else replace(job, limits=replace(job.limits, memory=memory)),
                self.settings.scratch,
                1,
                topic,
                (told["qcompress"], told["onnxruntime"]),
            )
            for job in jobs
        ]

    def _outcomes(
        self, client: Any, waiting: deque[_Task], heard: SimpleQueue[Any], listen: Listener
    ) -> Generator[Outcome, None, None]:
        running: dict[str, tuple[_Task, Any]] = {}
        slots = 0
        try:
            while waiting or running:
                slots = slots or _slots(client)
                at_once = min(self.settings.jobs or slots, len(waiting) + len(running))
                while waiting and len(running) < at_once:
                    task = replace(waiting.popleft(), threads=max(1, slots // at_once))
                    running[task.job.name] = (task, _submitted(client, task, heard))
                try:
                    item = heard.get(timeout=LOOK_SECONDS)
                except Empty:
                    _check(client)
                    slots = 0  # workers come and go
                    for _, future in running.values():
                        if future.done():  # whoever should have told of it was cut off
                            heard.put(future)
                    continue
                if isinstance(item, Event):
                    if self._hear(item, listen) and item.job in running:  # too many workers died of it
                        task, future = running.pop(item.job)
                        future.cancel(force=True)
                        yield self._given_up(task.job)
                    continue
                slots = 0
                name = str(item.key).rpartition("/")[0]
                if name in running and running[name][1] is item:
                    task, future = running.pop(name)
                    if (
                        future.status == "error"
                        and self._died(future)
                        and self._attempts.get(name, 0) <= self.settings.retries
                    ):
                        running[name] = (task, _submitted(client, task, heard))
                    else:
                        yield self._ended(task.job, future)
        finally:
            self._stop(client, [future for _, future in running.values()], heard)

    def _hear(self, event: Event, listen: Listener) -> bool:
        """Pass an event on; whether the job has begun once more than it may."""
        if event.kind is Kind.ENDED:
            self._busy.discard(event.job)
        if event.kind is not Kind.STARTED:
            listen(event)
            return False
        self._busy.add(event.job)
        attempt = self._attempts[event.job] = self._attempts.get(event.job, 0) + 1
        if attempt > 1:
            event = replace(event, kind=Kind.RETRIED, text=f"its worker died; started again on {event.text}")
        if attempt <= 1 + self.settings.retries:
            listen(event)
        return attempt > 1 + self.settings.retries

    def _stop(self, client: Any, futures: Sequence[Any], heard: SimpleQueue[Any]) -> None:
        """Cancel what is still running, and wait until the workers have ended it."""
        if not futures:
            return
        with suppress(Exception):  # the cluster may be gone; the failure that brought us here is the one to tell
            client.cancel(list(futures), force=True)
            until = time.monotonic() + FAREWELL_SECONDS
            while self._busy and (left := until - time.monotonic()) > 0:
                item = heard.get(timeout=left)
                if isinstance(item, Event) and item.kind is Kind.ENDED:
                    self._busy.discard(item.job)

    def _given_up(self, job: Job) -> Outcome:
        """The outcome of a job that workers die of."""
        attempts = min(self._attempts[job.name], 1 + self.settings.retries)
        cause = f"{attempts} workers died while it ran" if attempts > 1 else "its worker died"
        hint = "look at the workers' logs and memory"
        return Outcome(job.name, Status.CRASHED, job.key, cause, hint, attempts=attempts)

    @staticmethod
    def _died(future: Any) -> bool:
        """Whether Dask has given a task up because its workers died."""
        return type(future.exception()).__name__ == "KilledWorker"

    def _ended(self, job: Job, future: Any) -> Outcome:
        """The outcome of a task that is over."""
        attempts = max(1, self._attempts.get(job.name, 1))
        if future.status == "finished":
            outcome = outcome_from_json(future.result())
            return replace(outcome, key=job.key, attempts=attempts)
        if future.status != "error":
            raise EngineError("the Dask cluster is gone", "start it again; what was done stands, and the rest will be run")
        if self._died(future):
            return self._given_up(job)
        error = future.exception()
        cause, hint = f"its worker failed: {type(error).__name__}: {error}", "look at the worker's log"
        if isinstance(error, ImportError | AttributeError):
            cause, hint = f"a worker cannot load qcompress: {error}", "install the same qcompress for every worker"
        return Outcome(job.name, Status.UNUSABLE, job.key, cause, hint, attempts=attempts)


def _work(task: _Task) -> str:
    """On the worker: run one job, tell what it does, and end it when nobody wants it any more; the outcome as JSON."""
    from distributed import get_worker

    from qcompress.pipeline import versions  # late: the worker's event loop waits while this module is imported
    from qcompress.zoo.isolation import POLL_SECONDS, Supervised

    worker = get_worker()
    own = versions()
    if (own["qcompress"], own["onnxruntime"]) != task.versions:
        cause = f"worker {worker.address} has qcompress {own['qcompress']} and onnxruntime {own['onnxruntime']}"
        asked = f"qcompress {task.versions[0]} and onnxruntime {task.versions[1]}"
        return to_json(Outcome(task.job.name, Status.UNUSABLE, cause=cause, hint=f"give every worker {asked}"))

    def tell(event: Event) -> None:
        worker.log_event(task.topic, to_json(event))

    tell(Event(task.job.name, Kind.STARTED, text=worker.address))
    key = worker.get_current_task()
    running = Supervised(task.job, Path(task.scratch), task.threads, _nursery(task).start)
    try:
        while (outcome := running.poll(tell)) is None:
            if not _wanted(worker, key):
                raise RuntimeError("nobody waits for this any more")
            time.sleep(POLL_SECONDS)
    except BaseException:
        running.discard()
        tell(Event(task.job.name, Kind.ENDED, text=Status.NOT_RUN))
        raise
    tell(Event(task.job.name, Kind.ENDED, text=outcome.status))
    return to_json(replace(outcome, worker=str(worker.address)))


_NURSERIES: dict[int, tuple[str, Nursery]] = {}
"""On a worker: by thread, what its jobs are forked from, and the batch it belongs to."""


def _nursery(task: _Task) -> Nursery:
    """The nursery of this thread; one of another batch is closed, since the thread no longer works for that."""
    from qcompress.zoo.isolation import environment

    topic, nursery = _NURSERIES.get(get_ident(), ("", None))
    if nursery is None or topic != task.topic:
        if nursery is not None:
            nursery.close()
        nursery = Nursery(environment(task.threads))
        _NURSERIES[get_ident()] = task.topic, nursery
    return nursery


def _leave(topic: str) -> None:
    """On the worker: close the nurseries of a batch that has ended."""
    for thread, (name, nursery) in list(_NURSERIES.items()):
        if name == topic:
            del _NURSERIES[thread]
            nursery.close()


def _wanted(worker: Any, key: Any) -> bool:
    """Whether the scheduler still wants the task: it was not cancelled, and who asked for it is still there."""
    task = worker.state.tasks.get(key)
    closing = worker.status.name in ("closing", "closed", "failed")
    return task is not None and task.state in ("executing", "long-running") and not closing


def _library() -> ModuleType:
    try:
        import distributed
    except ImportError as error:
        raise EngineError("the dask engine needs Dask", "pip install 'qcompress[dask]'") from error
    found: ModuleType = distributed
    return found


def _connected(distributed: Any, address: str | None) -> Any:
    """A client of the cluster at the address."""
    if not address:
        raise EngineError(
            "the dask engine needs a cluster", "give the address of its scheduler: --scheduler tcp://host:8786"
        )
    try:
        client = distributed.Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EngineError(f"there is no Dask scheduler at {address}: {error}", "start one: dask scheduler") from error
    try:
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except TimeoutError as error:
        client.close()
        raise EngineError(f"the Dask cluster at {address} has no workers", f"start some: dask worker {address}") from error
    return client


def _slots(client: Any) -> int:
    """How many models the cluster can run at a time: the threads of its workers.

    Raises:
        EngineError: the scheduler does not answer.
    """
    try:
        slots: int = sum(client.nthreads().values())
    except (OSError, TimeoutError, RuntimeError) as error:
        raise EngineError("the Dask cluster is gone", "start it again; what was done stands") from error
    return max(1, slots)


def _submitted(client: Any, task: _Task, heard: SimpleQueue[Any]) -> Any:
    future = client.submit(_work, task, key=f"{task.job.name}/{uuid4().hex}", pure=False)
    future.add_done_callback(heard.put)
    return future


def _check(client: Any) -> None:
    """Nothing was heard for long: is anybody still there?"""
    try:
        client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    except (OSError, TimeoutError) as error:
        raise EngineError("the Dask cluster has lost all its workers", "start workers; what was done stands") from error


def _close(client: Any, topic: str) -> None:
    """Leave the cluster; it forgets the tasks of a client that is gone, and workers end what nobody wants."""

    def farewell() -> None:
        with suppress(Exception):  # the cluster may be gone
            client.run(_leave, topic, on_error="ignore")
            client.unsubscribe_topic(topic)

    saying = Thread(target=farewell, daemon=True)  # a worker that has just died may never answer
    saying.start()
    saying.join(FAREWELL_SECONDS)
    client.close()
