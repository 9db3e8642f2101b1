"""A batch while it runs, on stderr: one live table on a terminal, lines elsewhere, events for machines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qcompress.cli.guard import Talk

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qcompress.zoo.jobs import Event, Outcome
    from qcompress.zoo.run import Decision, Watcher

SHOWN = 8
"""Ended models that the live table keeps showing above those that run."""


@contextmanager
def open_watcher(talk: Talk, json_progress: bool) -> Iterator[Watcher]:
    """The watcher that fits: events when asked for, nothing when quiet, a live table on a terminal, else lines."""
    if json_progress:
        yield EventWatcher()
    elif talk.quiet:
        yield SilentWatcher()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.live import Live

        watcher = LiveWatcher()
        with Live(get_renderable=watcher.render, console=Console(stderr=True), transient=True):
            yield watcher
    else:
        yield LineWatcher(talk.verbose)


class SilentWatcher:
    """Nobody looks."""

    def begin(self, decisions: Sequence[Decision]) -> None:
        """Ignore it."""

    def heard(self, event: Event) -> None:
        """Ignore it."""

    def ended(self, outcome: Outcome) -> None:
        """Ignore it."""


class EventWatcher:
    """One JSON object a line: ``begin``, ``event`` or ``outcome`` with what it is about."""

    def begin(self, decisions: Sequence[Decision]) -> None:
        """Which models run and which results stand."""
        run = [decision.job.name for decision in decisions if decision.outcome is None]
        self._tell("begin", {"models": len(decisions), "run": run})

    def heard(self, event: Event) -> None:
        """Something happened to a job."""
        self._tell("event", asdict(event))

    def ended(self, outcome: Outcome) -> None:
        """A job has ended."""
        self._tell("outcome", asdict(outcome))

    def _tell(self, kind: str, about: dict[str, Any]) -> None:
        print(json.dumps({"type": kind, "time": round(time.time(), 3), **about}), file=sys.stderr, flush=True)


@dataclass(slots=True)
class Counts:
    """How many of how many have ended."""

    total: int = 0
    ended: int = 0
    stand: int = 0

    def begin(self, decisions: Sequence[Decision]) -> None:
        """Count what will run."""
        self.total = sum(decision.outcome is None for decision in decisions)
        self.stand = len(decisions) - self.total


@dataclass(slots=True)
class LineWatcher:
    """A line when a model ends; with ``verbose`` also when it begins, for every stage, note and pause."""

    verbose: bool
    counts: Counts = field(default_factory=Counts)

    def begin(self, decisions: Sequence[Decision]) -> None:
        """How many run."""
        self.counts.begin(decisions)
        stand = f", the results of {self.counts.stand} stand" if self.counts.stand else ""
        self._say(f"{self.counts.total} of {len(decisions)} models to compress{stand}")

    def heard(self, event: Event) -> None:
        """Something happened to a job."""
        if event.kind == "retried" or (self.verbose and event.kind == "note"):
            self._say(f"{event.job}: {event.text}")
        elif self.verbose and event.kind not in ("advanced", "stage ended", "ended"):
            self._say(f"{event.job}: {event.kind if event.kind != 'stage' else event.stage}")

    def ended(self, outcome: Outcome) -> None:
        """A job has ended."""
        self.counts.ended += 1
        self._say(f"[{self.counts.ended}/{self.counts.total}] {described(outcome)}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


@dataclass(slots=True)
class _Row:
    """A running model in the live table."""

    started: float
    stage: str = "starting"
    done: int = 0
    total: int | None = None
    paused: bool = False


@dataclass(slots=True)
class LiveWatcher:
    """A table of what runs: model, stage, percent, elapsed; the last ended models above it and the count below."""

    counts: Counts = field(default_factory=Counts)
    rows: dict[str, _Row] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def begin(self, decisions: Sequence[Decision]) -> None:
        """How many run."""
        self.counts.begin(decisions)

    def heard(self, event: Event) -> None:
        """Something happened to a job."""
        row = self.rows.setdefault(event.job, _Row(time.monotonic()))
        match event.kind:
            case "started":
                self.rows[event.job] = _Row(time.monotonic())
            case "stage":
                row.stage, row.done, row.total = event.stage, 0, event.total
            case "advanced":
                row.done = event.done
            case "paused" | "resumed":
                row.paused = event.kind == "paused"
            case "ended" | "retried":
                self.rows.pop(event.job, None)

    def ended(self, outcome: Outcome) -> None:
        """A job has ended."""
        self.counts.ended += 1
        self.last = [*self.last, described(outcome)][-SHOWN:]

    def render(self) -> RenderableType:
        """What the terminal shows now."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("model", "stage", "percent", "elapsed"):
            table.add_column(column, justify="right" if column in ("percent", "elapsed") else "left")
        for name, row in list(self.rows.items()):
            percent = f"{100 * row.done / row.total:.0f} %" if row.total else ""
            stage = f"{row.stage} (paused)" if row.paused else row.stage
            table.add_row(Text(name), Text(stage), percent, _clock(time.monotonic() - row.started))
        stand = f", {self.counts.stand} stand" if self.counts.stand else ""
        count = f"{self.counts.ended} of {self.counts.total} models{stand}, {_clock(time.monotonic() - self.started)}"
        return Group(*(Text(line) for line in self.last), table, Text(count))


def described(outcome: Outcome) -> str:
    """How a model ended, in one line."""
    parts = [f"{outcome.name}: {outcome.status}"]
    figures = outcome.figures
    if figures is not None:
        parts.append(f"{figures.ratio:.3f} of the size")
        parts += [] if figures.speedup is None else [f"{figures.speedup:.2f} times as fast"]
        parts += [] if figures.drop is None else [f"drop {figures.drop:.4f}"]
    parts.append(f"{outcome.seconds:.0f} s")
    return ", ".join(parts) + (f": {outcome.cause}" if outcome.cause else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
