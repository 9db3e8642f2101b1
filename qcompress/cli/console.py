"""What people see: the result on stdout, the talk and the progress bars on stderr."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qcompress.cli.guard import Talk
from qcompress.errors import OutputError
from qcompress.progress import SILENT, Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


def write_result(text: str) -> None:
    """Print a result on stdout; a reader that left early (``| head``) is not an error.

    Raises:
        OutputError: stdout is a file on a full disk.
    """
    encoding = (sys.stdout.encoding or "utf-8").lower()
    # UTF-8 lacks nothing but bytes of file names, which JSON can escape; other encodings lack the lines of tables, too.
    lost = "backslashreplace" if encoding == "utf-8" else "replace"
    write_bytes((text if text.endswith("\n") else text + "\n").encode(encoding, lost))


def write_bytes(content: bytes) -> None:
    """Write bytes to stdout, as ``write_result`` does."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        silence_stdout()
    except OSError as error:
        silence_stdout()
        raise OutputError(f"stdout cannot be written: {error.strerror}", "check where it is redirected to") from error


def silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not fail a second time."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def wants_colour() -> bool:
    """Whether stdout is a terminal that may be coloured (see https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns for tables: those of the terminal, or 100 for files and pipes."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100


@contextmanager
def open_progress(talk: Talk) -> Iterator[Progress]:
    """Bars on a terminal, a line per stage elsewhere, nothing when quiet; events for a supervisor."""
    if talk.supervised:
        from qcompress.cli.supervised import supervised_progress

        with supervised_progress() as progress:
            yield progress
    elif talk.quiet:
        yield SILENT
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bars() as bars:
            yield BarProgress(bars)
    else:
        yield LineProgress(talk.verbose)


class LineProgress:
    """One line when a stage starts, for logs; with ``verbose`` another one, with its time, when it ends."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Tell that the stage begins and, when asked for, how long it took."""
        self.note(f"{title} ..." if total is None else f"{title}: {total} {unit} ...")
        counter = _Counter()
        start = time.perf_counter()
        yield counter
        if self._verbose:
            seconds = time.perf_counter() - start
            speed = f", {counter.done / seconds:.1f} {unit}/s" if unit and counter.done and seconds > 0 else ""
            self.note(f"{title}: done in {seconds:.1f} s{speed}")

    def note(self, message: str) -> None:
        """Print the message."""
        print(message, file=sys.stderr, flush=True)


class _Counter:
    """Counts the units of a stage."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int = 1) -> None:
        """Count them."""
        self.done += amount


class BarProgress:
    """A bar per stage with what is done, how fast, and how long it will still take."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Show a bar while the stage runs; it stays, full, when the stage is done."""
        task = self._bars.add_task(title, total=total, unit=unit)
        yield _Bar(self._bars, task)
        done = self._bars.tasks[self._bars.task_ids.index(task)].completed
        self._bars.update(task, total=total or done or 1, completed=total or done or 1)

    def note(self, message: str) -> None:
        """Print the message above the bars."""
        self._bars.console.print(message, highlight=False, markup=False)


class _Bar:
    """One bar."""

    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        self._bars.advance(self._task, amount)


def _bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.progress import Task as BarTask
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        """Units per second."""

        def render(self, task: BarTask) -> Text:
            """The speed of late; of the whole stage once it is done."""
            unit, speed = task.fields["unit"], task.speed
            if task.finished_time:
                speed = task.completed / task.finished_time
            return Text(f"{speed:.1f} {unit}/s" if unit and speed else "")

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
