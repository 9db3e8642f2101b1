"""The talk on stderr: lines in logs, bars on terminals, nothing when quiet."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from qcompress.cli.console import BarProgress, LineProgress, _bars, open_progress
from qcompress.cli.guard import Talk
from qcompress.progress import SILENT


def test_quiet_is_silent() -> None:
    with open_progress(Talk(quiet=True)) as progress:
        assert progress is SILENT


def test_logs_get_a_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(Talk()) as progress:
        with progress.stage("Calibrating", 8, "samples") as stage:
            stage.advance(8)
        with progress.stage("Saving"):
            pass
        progress.note("a note")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Calibrating: 8 samples ...\nSaving ...\na note\n"


def test_verbose_logs_tell_time_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress(verbose=True).stage("Calibrating", 8, "samples") as stage:
        stage.advance(8)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Calibrating: done in ")
    assert last.endswith("samples/s")


def test_bars_end_full() -> None:
    with Bars(console=Console(file=StringIO(), force_terminal=True)) as bars:
        progress = BarProgress(bars)
        with progress.stage("Known", 4, "samples") as stage:
            stage.advance(3)
        with progress.stage("Unknown") as stage:
            stage.advance()
        assert [task.finished for task in bars.tasks] == [True, True]


def test_notes_are_not_taken_for_markup() -> None:
    stream = StringIO()
    with Bars(console=Console(file=stream, width=80)) as bars:
        BarProgress(bars).note("kept [bold]layer[/bold]")
    assert "kept [bold]layer[/bold]" in stream.getvalue()


def test_a_finished_bar_tells_the_speed_of_the_whole_stage() -> None:
    clock = iter(range(0, 1000, 2))
    stream = StringIO()
    bars = _bars()
    bars.get_time = lambda: float(next(clock))
    bars.live.console = Console(file=stream, width=120, force_terminal=True)
    progress = BarProgress(bars)
    with progress.stage("Measuring", 8, "samples") as stage:
        stage.advance(8)
    (task,) = bars.tasks
    assert task.finished_time is not None
    speed = bars.columns[3](task)
    assert str(speed) == f"{8 / task.finished_time:.1f} samples/s"
