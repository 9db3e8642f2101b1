"""What every engine can do, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from qcompress.zoo.jobs import Event, Job, Outcome

Listener = Callable[[Event], None]
"""Who is told of progress; called in the thread that iterates over the outcomes."""


class Engine(Protocol):
    """Runs jobs somewhere, each in a process of its own, and puts their results where the jobs say.

    Where the work is done, ``zoo.isolation.run_job(job, scratch, tell)`` runs one job in a process of its own, watches it,
    puts its files in their place and gives the outcome; ``tell`` is a ``Listener``.
    """

    def run(self, jobs: Sequence[Job], listen: Listener) -> Generator[Outcome, None, None]:
        """Run the jobs, in this order where nothing speaks against it; give each outcome as soon as it is known.

        Every job gets exactly one outcome. When an outcome is given, the files it names lie beside the target, whole. Closing
        the generator ends all work: no process of a job outlives it.

        Raises:
            QcompressError: the engine cannot run at all, for example because its cluster is not there.
        """

    @property
    def peak(self) -> int:
        """Bytes that all processes took together at most, 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How to run.

    ``jobs``: how many at a time, 0: as many as fit. ``memory``: bytes of all of them together, None: what the machine has.
    ``address``: of a cluster, for engines that have one. ``retries``: how often a job is started again after its worker died.
    """

    jobs: int = 0
    memory: int | None = None
    address: str | None = None
    retries: int = 2
    scratch: str = ""
    """Folder for unfinished results; beside the results, so that they can be moved to their place at once."""
