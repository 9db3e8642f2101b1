"""What is known of earlier runs: a file beside each result, and a lock so that only one run writes them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qcompress.errors import OutputError
from qcompress.remote import is_url
from qcompress.zoo.jobs import Job, Outcome, outcome_from_json
from qcompress.zoo.places import beside, present, read_text, remove, write_text

SCRATCH = ".qcompress-batch"
"""Folder in OUT for what is unfinished, and for the lock."""

RUN = "run.json"
"""File in that folder: the run that is going on, or was interrupted."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a model: the parts of the key it was done for, how it ended, and in which run."""

    parts: Mapping[str, str]
    outcome: Outcome
    run: str = ""


def scratch_of(out: Path | str) -> Path:
    """The folder for what is unfinished; that of results at a URL is one of this machine."""
    if not is_url(out):
        return Path(out).absolute() / SCRATCH  # jobs run in other folders
    name = hashlib.sha256(str(out).rstrip("/").encode()).hexdigest()[:16]
    owner = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"qcompress-{owner}" / name


def state_path(job: Job) -> str:
    """Where the state of a job lies."""
    return beside(job.target, job.state_name)


def read_state(job: Job) -> State | None:
    """What an earlier run found out; None when there was none, or its file is damaged."""
    return _state(read_text(state_path(job)))


def is_state(path: Path) -> bool:
    """Whether a file says how a batch has ended with what lies beside it."""
    return path.exists() and _state(read_text(path)) is not None


def _state(text: str | None) -> State | None:
    try:
        table = json.loads(text or "")
        parts = {str(name): str(value) for name, value in table["parts"].items()}
        return State(parts, outcome_from_json(json.dumps(table["outcome"])), str(table["run"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(job: Job, state: State, scratch: Path) -> None:
    """Write down how a job ended, whole or not at all; its files must be in their place.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    table = {"run": state.run, "parts": dict(state.parts), "outcome": asdict(replace(state.outcome, reused=False))}
    write_text(state_path(job), json.dumps(table, indent=1, ensure_ascii=False), scratch)


def forget(job: Job) -> None:
    """Say that what lies in the place of the results does not stand, before any of it is replaced.

    Raises:
        OutputError, RemoteError: the folder cannot be written.
    """
    remove(state_path(job))


def standing(job: Job, parts: Mapping[str, str], run: str) -> tuple[Outcome | None, str]:
    """The earlier outcome if it stands, else why not; a failure stands only within its run, which was interrupted."""
    state = read_state(job)
    if state is None:
        return None, "there is no result yet"
    changed = [name for name, value in parts.items() if state.parts.get(name) != value]
    if changed:
        return None, f"changed: {', '.join(changed)}"
    if not state.outcome.status.settled and state.run != run:
        return None, f"{state.outcome.status} last time"
    if not present(job.target, state.outcome.files):
        return None, "results are missing or were changed"
    return replace(state.outcome, reused=True), ""


@contextmanager
def locked(out: Path | str) -> Iterator[Path]:
    """Hold OUT for this run; gives the folder for unfinished files, emptied of what a killed run has left.

    A URL is held against other runs of this machine alone.

    Raises:
        OutputError: another run holds it, or the folder cannot be written.
    """
    scratch = scratch_of(out)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        file = os.open(scratch / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}", "choose another folder") from error
    try:
        if not _lock(file):
            raise OutputError(f"{out}: another run is writing there", "wait for it, or choose another folder")
        for item in scratch.iterdir():
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            elif item.name not in ("lock", RUN):
                item.unlink(missing_ok=True)
        yield scratch
    finally:
        os.close(file)


def running(out: Path | str, limits: str) -> str:
    """The name of the run that was interrupted, if it had the same limits; empty when there is none."""
    try:
        table = json.loads(read_text(scratch_of(out) / RUN) or "")
        return str(table["run"]) if table["limits"] == limits else ""
    except (ValueError, KeyError, TypeError):
        return ""


def begin_run(out: Path | str, limits: str) -> str:
    """Go on with the interrupted run, or begin another one; gives its name."""
    run = running(out, limits) or uuid.uuid4().hex
    write_text(scratch_of(out) / RUN, json.dumps({"run": run, "limits": limits}), scratch_of(out))
    return run


def end_run(out: Path | str) -> None:
    """The run has come to its end: what failed is tried again next time."""
    (scratch_of(out) / RUN).unlink(missing_ok=True)


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
