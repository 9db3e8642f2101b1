"""Run one step of a benchmark in a process of its own: a crash, a hang or ten gigabytes end that step and nothing else."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a step returned or why it failed, its seconds, and the largest resident set of its process in MB."""

    value: Any = None
    error: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0


def run_step(function: Callable[..., Any], *arguments: object, timeout: float = 1800.0) -> Outcome:
    """Call ``function`` in a fresh process; both it and its value must be picklable."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments))
    start = time.perf_counter()
    process.start()
    sender.close()
    try:
        outcome = receiver.recv() if receiver.poll(timeout) else Outcome(error=f"stopped after {timeout:.0f} s")
    except EOFError:
        process.join()
        outcome = Outcome(error=f"process ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()
    return outcome if outcome.seconds else Outcome(error=outcome.error, seconds=time.perf_counter() - start)


def _serve(sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    sys.stdout = sys.stderr  # what libraries print is not part of the table
    start = time.perf_counter()
    value, error = None, ""
    try:
        value = function(*arguments)
    except Exception as problem:
        lines = str(problem).strip().splitlines()
        error = f"{type(problem).__name__}: {lines[0][:200]}" if lines else type(problem).__name__
    sender.send(Outcome(value, error, time.perf_counter() - start, _peak_mb()))


def _peak_mb() -> float:
    """The largest resident set so far; what getrusage tells includes the parent's at the time of the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
