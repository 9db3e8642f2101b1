"""One job in a process of its own: watched, paused while others measure, ended at its limits, and its end explained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import qcompress
from qcompress.errors import ExitCode, QcompressError
from qcompress.report import from_json, render
from qcompress.results import Report
from qcompress.zoo.jobs import Event, Figures, Job, Kind, Outcome, Status
from qcompress.zoo.places import publish
from qcompress.zoo.processes import CAN_PAUSE, kill_group, killed_for_memory, pause_group, resume_group, tree_memory
from qcompress.zoo.quiet import SETTLING_SECONDS, Quiet
from qcompress.zoo.starting import Order, Process, start

POLL_SECONDS = 0.05

FOREIGN = ("QCOMPRESS_", "GITHUB_")
KEPT_VARIABLES = ("QCOMPRESS_CACHE",)
"""Options come with the job, not from the environment of whoever runs it; GitHub is told of the batch, not of each model."""

Starter = Callable[[Order, IO[bytes]], Process]

_LAST_LINES = 8192  # bytes of the log in which the cause is looked for


class Supervised:
    """A running job. Call ``poll`` every ``POLL_SECONDS`` until it gives an outcome; ``kill`` ends it at once."""

    def __init__(self, job: Job, scratch: Path, threads: int, starter: Starter = start) -> None:
        self.job = job
        self.memory = 0
        """Bytes its processes hold, as of the last poll."""
        self.peak = 0
        scratch.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="job-", dir=scratch))
        self._log = self._folder / job.log_name
        self._quiet = Quiet()
        self._stages: list[str] = []
        self._ready = False
        self._waiting = False
        self._settled_at: float | None = None
        self._paused = False
        self._running = 0.0
        self._looked = time.monotonic()
        self._oom_kills = killed_for_memory()
        self._killed: Outcome | None = None
        self._text = b""
        with self._log.open("wb") as log:
            self._process = starter(order(job, self._folder, threads), log)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    @property
    def forked(self) -> bool:
        """Whether it dies with the process that it was forked from."""
        return not isinstance(self._process, subprocess.Popen)

    def poll(self, tell: Callable[[Event], None]) -> Outcome | None:
        """Look after the process; its outcome when it has ended, with its files in their place."""
        ended = self._process.poll() is not None
        for event in self._events():
            tell(event)
        if ended:
            kill_group(self._process.pid)  # what it may have left running
            return self._finish()
        now = time.monotonic()
        if not (self._paused or self._waiting):
            self._running += now - self._looked
        self._looked = now
        self.memory = tree_memory(self._process.pid)
        self.peak = max(self.peak, self.memory)
        limits = self.job.limits
        if limits.seconds is not None and self._running > limits.seconds:
            self.kill(Status.TIMED_OUT, f"no end after {limits.seconds:g} s", "allow more with --timeout")
        elif limits.memory is not None and self.memory > limits.memory:
            self.kill(
                Status.OUT_OF_MEMORY, f"it took more than {_megabytes(limits.memory)}", "allow more with --memory-limit"
            )
        else:
            self._take_turns(tell)
        return None

    def kill(self, status: Status, cause: str, hint: str = "") -> None:
        """End it; the next polls give an outcome with this status, once the system is done with it."""
        if self._killed is None:
            self._killed = Outcome(self.job.name, status, self.job.key, cause, hint)
        kill_group(self._process.pid)

    def discard(self) -> None:
        """End it at once and leave nothing."""
        kill_group(self._process.pid)
        self._process.wait()
        self._clean()

    def _take_turns(self, tell: Callable[[Event], None]) -> None:
        """Begin a timed stage when it is this one's turn; stand still while another one's is going on."""
        wanted = CAN_PAUSE and self._ready and not self._waiting and self._quiet.wanted_elsewhere()
        if wanted != self._paused:
            (pause_group if wanted else resume_group)(self._process.pid)
            self._paused = wanted
            tell(self._event(Kind.PAUSED if wanted else Kind.RESUMED))
        if self._waiting and self._quiet.take():
            self._settled_at = self._settled_at or time.monotonic() + SETTLING_SECONDS
            if time.monotonic() >= self._settled_at:
                self._waiting, self._settled_at = False, None
                self._looked = time.monotonic()
                self._answer()

    def _answer(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has just died
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()

    def _events(self) -> Iterator[Event]:
        """What the process has told since the last look."""
        assert self._process.stdout is not None
        while block := self._process.stdout.read(1 << 16):
            self._text += block
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                event = self._heard(json.loads(line))
                if event is not None:
                    yield event

    def _heard(self, told: Mapping[str, Any]) -> Event | None:
        match told["event"]:
            case "ready":
                self._ready = True
            case "stage":
                self._stages.append(str(told["stage"]))
                self._waiting = self._waiting or bool(told["timed"])
                return self._event(Kind.STAGE, total=told["total"], unit=str(told["unit"]))
            case "advance":
                return self._event(Kind.ADVANCED, done=int(told["done"]))
            case "end":
                ended = self._stages.pop()
                self._quiet.give_back()
                return Event(self.job.name, Kind.STAGE_ENDED, ended)
            case "note":
                return self._event(Kind.NOTE, text=str(told["text"]))
        return None

    def _event(self, kind: Kind, done: int = 0, total: int | None = None, unit: str = "", text: str = "") -> Event:
        return Event(self.job.name, kind, self._stages[-1] if self._stages else "", done, total, unit, text)

    def _finish(self) -> Outcome:
        """The outcome, once the process has ended; its files go to their place."""
        code = self._process.wait()
        try:
            outcome = self._killed if self._killed is not None else self._explained(code)
            stage = self._stages[-1] if self._stages and outcome.status not in _ENDS_WELL else ""
            outcome = replace(outcome, stage=stage, seconds=self._running, peak=self.peak)
            return self._deliver(outcome)
        finally:
            self._clean()

    def _explained(self, code: int) -> Outcome:
        """What an exit code means, with the cause from the log."""
        name, key = self.job.name, self.job.key
        cause, hint = _last_words(self._log)
        cause = cause.removeprefix(f"{self.job.model}: ")
        if code in (ExitCode.DONE, ExitCode.GATE_FAILED) and (self._folder / self.job.report_name).exists():
            return Outcome(name, Status.DONE if code == ExitCode.DONE else Status.GATE_FAILED, key)
        if code == ExitCode.NOTHING_TO_COMPRESS:
            return Outcome(name, Status.NOTHING, key, cause, hint)
        if code in (ExitCode.USAGE, ExitCode.UNUSABLE):
            lacking = cause.startswith("not enough memory")
            return Outcome(name, Status.OUT_OF_MEMORY if lacking else Status.UNUSABLE, key, cause or "no reason given", hint)
        if code == ExitCode.BUG:
            return Outcome(name, Status.BUG, key, cause, hint)
        if code == -signal.SIGKILL and killed_for_memory() != self._oom_kills:
            return Outcome(name, Status.OUT_OF_MEMORY, key, "killed by the system for want of memory", "see --memory-limit")
        told = f": {cause}" if cause else ""
        return Outcome(name, Status.CRASHED, key, f"{_ended_by(code)}{told}", "see its log")

    def _deliver(self, outcome: Outcome) -> Outcome:
        """Put the files beside the target and the figures into the outcome."""
        job = self.job
        found = {path.name: path for path in self._folder.iterdir() if path.is_file() and not path.name.startswith(".")}
        if outcome.status in _ENDS_WELL:
            report = from_json(found[job.report_name].read_text(encoding="utf-8"))
            report = replace(report, source=job.model, target=job.target)
            text = f"{render(report, 'json')}\n".encode("utf-8", "backslashreplace")
            found[job.report_name].write_bytes(text)
            failed = "; ".join(gate.message for gate in report.gates if not gate.passed)
            outcome = replace(outcome, figures=figures_of(report), cause=outcome.cause or failed, notes=report.notes)
        else:
            found = {job.log_name: found[job.log_name]}
        with suppress(OSError):
            if not self._log.stat().st_size:
                del found[job.log_name]
        obsolete = [name for name in job.written if name not in found and name != job.state_name]
        try:
            return replace(outcome, files=publish(found, job.target, obsolete))
        except QcompressError as error:
            return Outcome(job.name, Status.UNUSABLE, job.key, error.message, error.hint)

    def _clean(self) -> None:
        self._quiet.give_back()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_ENDS_WELL = (Status.DONE, Status.GATE_FAILED)


def run_job(job: Job, scratch: Path, tell: Callable[[Event], None], threads: int = 0) -> Outcome:
    """Run one job to its end on this machine; whatever happens to its process, there is an outcome.

    ``scratch``: a folder for unfinished files on the disk of the target. ``threads``: 0 for all cores.
    """
    tell(Event(job.name, Kind.STARTED))
    running = Supervised(job, scratch, threads)
    try:
        while (outcome := running.poll(tell)) is None:
            time.sleep(POLL_SECONDS)
    except BaseException:
        running.discard()
        raise
    tell(Event(job.name, Kind.ENDED, text=outcome.status))
    return outcome


def order(job: Job, folder: Path, threads: int) -> Order:
    """The command line of a job that writes into ``folder``; threads that the job does not choose itself are ``threads``.

    What is timed is timed with all cores, as it will run, unless the job says otherwise. Temporary files go to a folder in
    ``folder`` too, so that none is left of a process that is killed.
    """
    words = ["compress", job.model, f"--output={folder / job.model_name}", f"--report={folder / job.report_name}"]
    words.append("--supervised")
    if "--threads" not in job.options:
        words += [f"--threads={threads}"]
        words += [] if "--target-threads" in job.options else ["--target-threads=0"]
    temporary = folder / ".tmp"
    temporary.mkdir()
    own = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    return Order([*words, *job.arguments()], job.folder, environment(threads), own)


def environment(threads: int) -> dict[str, str]:
    """The environment of jobs: no options, the package where this one is, so many threads for numpy."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN) or key in KEPT_VARIABLES}
    paths = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    home = Path(qcompress.__file__).resolve().parent.parent
    if "site-packages" not in home.parts:
        paths.append(str(home))
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if threads:
        kept |= {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return kept


def figures_of(report: Report) -> Figures:
    """What the summary shows of a report."""
    drop = report.accuracy.drop if report.accuracy is not None else None
    return Figures(
        float_bytes=report.size.float_bytes,
        compressed_bytes=report.size.compressed_bytes,
        speedup=report.latency.speedup.value if report.latency is not None else None,
        drop=drop.value if drop is not None else None,
        drop_of=report.accuracy.drop_of if report.accuracy is not None and drop is not None else "",
        random=report.data.random,
    )


def _last_words(log: Path) -> tuple[str, str]:
    """The last error and its hint in a log, else its last line."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LAST_LINES))
        lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [index for index, line in enumerate(lines) if line.startswith("qcompress: error: ")]
        if errors:
            after = lines[errors[-1] + 1] if errors[-1] + 1 < len(lines) else ""
            hint = after.removeprefix("hint: ") if after.startswith("hint: ") else ""
            return lines[errors[-1]].removeprefix("qcompress: error: "), hint
        if any(line.startswith("Fatal Python error") for line in lines):  # then comes where; the signal says the rest
            return "a crash in native code", ""
        return (lines or [""])[-1], ""
    return "", ""


def _ended_by(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
