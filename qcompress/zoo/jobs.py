"""What goes to an engine and what comes back: values that can be pickled and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from qcompress.errors import ExitCode


class Status(StrEnum):
    """How the work on one model ended."""

    DONE = "done"
    GATE_FAILED = "gate failed"
    NOTHING = "nothing to compress"
    UNUSABLE = "unusable"
    """The model, its data or its options cannot be used; the cause says why."""
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    """Its process died: a crash in native code, or killed from outside."""
    BUG = "bug"
    NOT_RUN = "not run"
    """The batch ended before its turn."""

    @property
    def exit_code(self) -> ExitCode:
        """What a single ``qcompress compress`` says about such an end."""
        return _EXIT_CODES.get(self, ExitCode.UNUSABLE)

    @property
    def settled(self) -> bool:
        """Whether the same model, data and options would end the same way again, so that the result stands."""
        return self in (Status.DONE, Status.GATE_FAILED, Status.NOTHING)


_EXIT_CODES = {
    Status.DONE: ExitCode.DONE,
    Status.GATE_FAILED: ExitCode.GATE_FAILED,
    Status.NOTHING: ExitCode.NOTHING_TO_COMPRESS,
    Status.BUG: ExitCode.BUG,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may take: ``seconds`` of its own running time, ``memory`` in bytes of its processes together."""

    seconds: float | None = None
    memory: int | None = None


def words_of(options: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Flags and their values as words of a command line."""
    return [word for flag, values in sorted(options.items()) for word in ([f"{flag}={value}" for value in values] or [flag])]


@dataclass(frozen=True, slots=True)
class Job:
    """One model to compress: a call of ``qcompress compress``, and where its results go.

    ``name``: unique, the target's place in OUT without the suffix, with ``/`` between folders. ``model``, ``data``,
    ``eval_data``: as for compress; paths are absolute. ``target``: the compressed model; the report and the log lie beside it,
    see ``report_name``. ``options``: of compress, flag -> its values, none for a switch: ``{"--recipe": ("int8",),
    "--no-latency": ()}``. ``key``: of everything that decides the result. ``memory``: bytes it will take, estimated.
    ``folder``: where the command runs, so that ``module:function`` is found.
    """

    name: str
    model: str
    target: str
    data: str | None = None
    eval_data: str | None = None
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    key: str = ""
    memory: int = 0
    folder: str = ""

    @property
    def model_name(self) -> str:
        """File name of the compressed model."""
        return PurePosixPath(self.target).name

    @property
    def report_name(self) -> str:
        """File name of its report."""
        return f"{PurePosixPath(self.name).name}.report.json"

    @property
    def log_name(self) -> str:
        """File name of what the command said."""
        return f"{PurePosixPath(self.name).name}.log"

    @property
    def state_name(self) -> str:
        """File name of the outcome, which says for which key the files beside it stand."""
        return f"{PurePosixPath(self.name).name}.state.json"

    @property
    def written(self) -> tuple[str, ...]:
        """Names of all files that may be written or removed beside the target, itself first."""
        return self.model_name, f"{self.model_name}.data", self.report_name, self.log_name, self.state_name

    def arguments(self) -> list[str]:
        """The options as words of a command line, without model and output."""
        words = [] if self.data is None else [f"--data={self.data}"]
        words += [] if self.eval_data is None else [f"--eval-data={self.eval_data}"]
        return [*words, *words_of(self.options)]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the summary shows of a report; a drop of 0.01 is one point of ``drop_of``."""

    float_bytes: int
    compressed_bytes: int
    speedup: float | None = None
    drop: float | None = None
    drop_of: str = ""
    random: bool = False
    """Calibrated or measured on random numbers."""

    @property
    def ratio(self) -> float:
        """Compressed over float bytes."""
        return self.compressed_bytes / max(self.float_bytes, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job ended.

    ``cause`` and ``hint``: in one line each, empty when done. ``stage``: what it was doing when it ended badly. ``seconds``:
    of its own running time, pauses left out. ``peak``: bytes of its processes together at most. ``files``: name -> SHA-256 of
    what lies beside the target now. ``attempts``: how often it was started. ``reused``: the result of an earlier run stands.
    """

    name: str
    status: Status
    key: str = ""
    cause: str = ""
    hint: str = ""
    stage: str = ""
    seconds: float = 0.0
    peak: int = 0
    figures: Figures | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    attempts: int = 1
    worker: str = ""
    reused: bool = False


class Kind(StrEnum):
    """What an event tells."""

    STARTED = "started"
    STAGE = "stage"
    STAGE_ENDED = "stage ended"
    ADVANCED = "advanced"
    NOTE = "note"
    PAUSED = "paused"
    RESUMED = "resumed"
    RETRIED = "retried"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a job; ``done`` of ``total`` units of its ``stage``, ``text`` of a note, status of an end."""

    job: str
    kind: Kind
    stage: str = ""
    done: int = 0
    total: int | None = None
    unit: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole batch: outcomes with the worst first, and totals.

    ``seconds``: of the wall clock. ``peak``: bytes of all processes together at most, 0 where other machines did the work.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0
    peak: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """The worst of the results.

        Case 1: all done. DONE.
        Case 2: of some there was nothing to compress, the rest is done. NOTHING_TO_COMPRESS.
        Case 3: some failed a gate or cannot be used, others are done. GATE_FAILED: look at the summary.
        Case 4: some cannot be used and none could be compressed at all. UNUSABLE.
        """
        found = {outcome.status for outcome in self.outcomes}
        if found <= {Status.DONE}:  # Case 1
            return ExitCode.DONE
        if found <= {Status.DONE, Status.NOTHING}:  # Case 2
            return ExitCode.NOTHING_TO_COMPRESS
        if found & {Status.DONE, Status.GATE_FAILED}:  # Case 3
            return ExitCode.GATE_FAILED
        return ExitCode.UNUSABLE  # Case 4


def to_json(value: Job | Outcome | Event | Summary) -> str:
    """One of the values above as JSON in one line, its keys in their order."""
    return json.dumps(asdict(value), ensure_ascii=False)


def job_from_json(text: str) -> Job:
    """Read a job back.

    Raises:
        ValueError, KeyError, TypeError: not a job.
    """
    table = json.loads(text)
    options = {flag: tuple(values) for flag, values in table.pop("options").items()}
    return Job(**{**table, "options": options, "limits": Limits(**table["limits"])})


def outcome_from_json(text: str) -> Outcome:
    """Read an outcome back.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: not an outcome.
    """
    return _outcome(json.loads(text))


def event_from_json(text: str) -> Event:
    """Read an event back.

    Raises:
        ValueError, KeyError, TypeError: not an event.
    """
    table = json.loads(text)
    return Event(**{**table, "kind": Kind(table["kind"])})


def summary_from_json(text: str) -> Summary:
    """Read a summary back.

    Raises:
        ValueError, KeyError, TypeError: not a summary.
    """
    table = json.loads(text)
    known = {item.name: table[item.name] for item in fields(Summary) if item.name in table}
    return Summary(**{**known, "outcomes": tuple(_outcome(item) for item in table["outcomes"])})


def _outcome(table: Mapping[str, Any]) -> Outcome:
    known = {item.name: table[item.name] for item in fields(Outcome) if item.name in table}
    figures = known.get("figures")
    kept = {item.name for item in fields(Figures)}
    files = {str(name): str(digest) for name, digest in known.get("files", {}).items()}
    notes = tuple(map(str, known.get("notes", ())))
    outcome = Outcome(**{**known, "status": Status(known["status"]), "notes": notes, "files": files})
    return replace(outcome, figures=None if figures is None else Figures(**{k: v for k, v in figures.items() if k in kept}))
