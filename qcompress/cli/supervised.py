"""Progress for a supervisor that runs this command for one of many models: events on stdout, its answers on stdin."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

from qcompress.cli.console import LineProgress
from qcompress.errors import ExitCode
from qcompress.progress import TIMED_STAGES, Progress, Stage

EVENT_SECONDS = 0.2
"""A stage tells how far it is at most this often."""


@contextmanager
def supervised_progress() -> Iterator[Progress]:
    """Events on what was stdout, one JSON object a line; what anybody prints goes to stderr, the log.

    A stage that is timed begins when the supervisor has answered with a line. The process ends when the supervisor does.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1) as events:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        answers: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=_listen, args=(answers,), daemon=True).start()
        yield EventProgress(events, answers)


class EventProgress:
    """Tells every stage as events, and the log as well."""

    def __init__(self, events: TextIO, answers: SimpleQueue[str]) -> None:
        self._events = events
        self._answers = answers
        self._log = LineProgress(verbose=True)

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Tell that it begins, wait for quiet if it is timed, tell how far it is, tell that it ended."""
        timed = title in TIMED_STAGES
        self._tell({"event": "stage", "stage": title, "total": total, "unit": unit, "timed": timed})
        if timed:
            self._answers.get()
        with self._log.stage(title, total, unit):
            try:
                yield _Counter(self)
            finally:
                self._tell({"event": "end", "stage": title})

    def note(self, message: str) -> None:
        """Tell and log the message."""
        self._tell({"event": "note", "text": message})
        self._log.note(message)

    def advanced(self, done: int) -> None:
        """Tell how many units of the stage are done."""
        self._tell({"event": "advance", "done": done})

    def _tell(self, event: dict[str, object]) -> None:
        self._events.write(json.dumps(event) + "\n")


class _Counter:
    """Counts the units of a stage and tells now and then."""

    def __init__(self, progress: EventProgress) -> None:
        self._progress = progress
        self._done = 0
        self._told = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Count them."""
        self._done += amount
        if time.monotonic() - self._told > EVENT_SECONDS:
            self._told = time.monotonic()
            self._progress.advanced(self._done)


def _listen(answers: SimpleQueue[str]) -> None:
    """Pass on the supervisor's lines; when there are no more, it is gone and nobody waits for the result."""
    stream = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    for line in stream:
        answers.put(line)
    os._exit(ExitCode.UNUSABLE)


def end_with_supervisor() -> None:
    """End when the supervisor does, whatever this process is doing then.

    Called before anything slow is imported. A supervisor that is gone already has closed its end of stdin. The first event
    says that from now on this process can be stopped without being left so for ever.
    """
    end_with_parent()
    with suppress(OSError):  # where the system ends processes for want of memory, this one rather than its supervisor
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    os.write(sys.stdout.fileno(), b'{"event": "ready"}\n')
    if _hung_up(sys.stdin.fileno()):
        os._exit(ExitCode.UNUSABLE)


def end_with_parent() -> None:
    """On Linux the system ends this process with its parent, even when it is stopped or in native code for long."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _hung_up(descriptor: int) -> bool:
    """Whether the other end of a pipe is closed."""
    import select

    if not hasattr(select, "poll"):
        return False
    waiting = select.poll()
    waiting.register(descriptor, select.POLLHUP)
    return any(event & select.POLLHUP for _, event in waiting.poll(0))
