"""What is known of earlier runs: a file beside each result, and a lock so that only one run writes them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qcompress.errors import OutputError
from qcompress.zoo.jobs import Job, Outcome, outcome_from_json
from qcompress.zoo.places import present, read_text, write_text

SCRATCH = ".qcompress-batch"
"""Folder in OUT for what is unfinished, and for the lock."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a model: the parts of the key it was done for, and how it ended."""

    parts: Mapping[str, str]
    outcome: Outcome


def state_path(job: Job) -> Path:
    """Where the state of a job lies."""
    return Path(job.target).with_name(job.state_name)


def read_state(job: Job) -> State | None:
    """What an earlier run found out; None when there was none, or its file is damaged."""
    text = read_text(state_path(job))
    try:
        table = json.loads(text or "")
        parts = {str(name): str(value) for name, value in table["parts"].items()}
        return State(parts, outcome_from_json(json.dumps(table["outcome"])))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(job: Job, state: State, scratch: Path) -> None:
    """Write down how a job ended, whole or not at all; its files must be in their place.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    table = {"parts": dict(state.parts), "outcome": asdict(replace(state.outcome, reused=False))}
    write_text(state_path(job), json.dumps(table, indent=1, ensure_ascii=False), scratch)


def forget(job: Job) -> None:
    """Say that what lies in the place of the results does not stand, before any of it is replaced."""
    state_path(job).unlink(missing_ok=True)


def standing(job: Job, parts: Mapping[str, str]) -> tuple[Outcome | None, str]:
    """The earlier outcome if it stands, else why not."""
    state = read_state(job)
    if state is None:
        return None, "there is no result yet"
    changed = [name for name, value in parts.items() if state.parts.get(name) != value]
    if changed:
        return None, f"changed: {', '.join(changed)}"
    if not state.outcome.status.settled:
        return None, f"{state.outcome.status} last time"
    if not present(job.target, state.outcome.files):
        return None, "results are missing or were changed"
    return replace(state.outcome, reused=True), ""


@contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Hold OUT for this run; gives the folder for unfinished files, emptied of what a killed run has left.

    Raises:
        OutputError: another run holds it, or the folder cannot be written.
    """
    scratch = out / SCRATCH
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        file = os.open(scratch / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}", "choose another folder") from error
    try:
        if not _lock(file):
            raise OutputError(f"{out}: another run is writing there", "wait for it, or choose another folder")
        for item in scratch.iterdir():
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            elif item.name != "lock":
                item.unlink(missing_ok=True)
        yield scratch
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Whether the file could be locked; the system unlocks it when this process ends, however it does."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
