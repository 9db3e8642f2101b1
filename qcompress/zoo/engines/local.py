"""Processes of this machine: as many at a time as cores and memory allow."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qcompress.zoo.engines.interface import EngineSettings, Listener
from qcompress.zoo.isolation import POLL_SECONDS, Supervised, environment
from qcompress.zoo.jobs import Event, Job, Kind, Outcome, Status
from qcompress.zoo.processes import available_memory, tree_memory, usable_cores
from qcompress.zoo.starting import Nursery

MARGIN = 0.9
"""Part of the memory that jobs are planned into; the rest is for estimates that are too small."""

TOLERATED = 0.95
"""Part of the memory from which a job is ended: it takes more between two looks."""

MOST_JOBS = 16


@dataclass(slots=True)
class LocalEngine:
    """Runs every job under supervision in this process' own loop.

    A job starts when its estimated memory fits beside what the others take or will take. When all together take more than the
    limit, the one furthest above its estimate is ended and started again when what it took by then fits, the second time alone;
    a job that is alone and takes more than the limit is out of memory.
    """

    settings: EngineSettings
    peak: int = 0
    _running: list[Supervised] = field(default_factory=list)
    _attempts: dict[str, int] = field(default_factory=dict)
    _nursery: Nursery | None = None

    def run(self, jobs: Sequence[Job], listen: Listener) -> Generator[Outcome, None, None]:
        """Run the jobs; give each outcome as soon as it is known."""
        limit = self.settings.memory or available_memory() or (1 << 62)
        at_once = self.settings.jobs or default_jobs(len(jobs))
        threads = max(1, usable_cores() // at_once)
        self._nursery = Nursery(environment(threads))
        waiting, alone = deque(jobs), deque[Job]()
        try:
            while waiting or alone or self._running:
                self._start(waiting, alone, _Room(limit, at_once, threads), listen)
                yield from self._look(waiting, listen)
                for job in self._relieve(limit):
                    again = self._attempts[job.name] > 1
                    (alone if again else waiting).append(job)
                    when = "it has it for itself" if again else "there is more"
                    listen(Event(job.name, Kind.RETRIED, text=f"memory was short; started again when {when}"))
                time.sleep(POLL_SECONDS)
        finally:
            for item in self._running:
                item.discard()
            self._running.clear()
            self._nursery.close()

    def _start(self, waiting: deque[Job], alone: deque[Job], room: _Room, listen: Listener) -> None:
        """Start what fits; those that need the machine for themselves come last, one by one."""
        while waiting and len(self._running) < room.jobs:
            taken = sum(max(item.memory, item.job.memory) for item in self._running) + _own_memory()
            fitting = (job for job in waiting if not self._running or taken + job.memory <= MARGIN * room.memory)
            job = next(fitting, None)
            if job is None:
                break
            waiting.remove(job)
            self._begin(job, room.threads, listen)
        if alone and not waiting and not self._running:
            self._begin(alone.popleft(), room.threads, listen)

    def _begin(self, job: Job, threads: int, listen: Listener) -> None:
        self._attempts[job.name] = self._attempts.get(job.name, 0) + 1
        listen(Event(job.name, Kind.STARTED))
        assert self._nursery is not None
        self._running.append(Supervised(job, Path(self.settings.scratch), threads, self._nursery.start))

    def _look(self, waiting: deque[Job], listen: Listener) -> Iterator[Outcome]:
        """The outcomes of those that have ended; jobs that died with what they were forked from wait again, once."""
        assert self._nursery is not None
        for item in list(self._running):
            outcome = item.poll(listen)
            if outcome is not None:
                self._running.remove(item)
                if outcome.status is Status.CRASHED and item.forked and self._nursery.gone:
                    waiting.appendleft(item.job)
                    listen(Event(item.job.name, Kind.RETRIED, text="the process that starts all others died; started again"))
                    continue
                listen(Event(item.job.name, Kind.ENDED, text=outcome.status))
                yield replace(outcome, attempts=self._attempts[item.job.name])

    def _relieve(self, limit: int) -> Iterator[Job]:
        """End what takes too much memory; give the jobs to be started again."""
        total = tree_memory(os.getpid())
        self.peak = max(self.peak, total)
        if total <= TOLERATED * limit or not self._running:
            return
        worst = max(self._running, key=lambda item: (item.memory - item.job.memory, item.memory))
        if len(self._running) == 1:
            cause = f"it took {worst.memory / 1e6:,.0f} MB, all together may take {limit / 1e6:,.0f} MB"
            worst.kill(Status.OUT_OF_MEMORY, cause, "allow more with --memory-limit, or use a larger machine")
            return
        self._running.remove(worst)
        worst.discard()
        yield replace(worst.job, memory=max(worst.job.memory, math.ceil(1.25 * worst.peak)))


@dataclass(frozen=True, slots=True)
class _Room:
    """What the jobs share: bytes of memory, places, and the threads of each."""

    memory: int
    jobs: int
    threads: int


def default_jobs(count: int) -> int:
    """How many jobs run at a time when nobody says."""
    return max(1, min(usable_cores(), MOST_JOBS, count))


def _own_memory() -> int:
    """Bytes of this process without the jobs; the jobs are its only children."""
    return tree_memory(os.getpid(), children=False)
