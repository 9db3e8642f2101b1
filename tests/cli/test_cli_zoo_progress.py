"""What people see of a batch while it runs."""

from __future__ import annotations

import io

import click
import pytest
from rich.console import Console

from qcompress.cli.guard import Talk
from qcompress.cli.quantities import Bytes, Duration
from qcompress.cli.zoo_progress import LineWatcher, LiveWatcher, SilentWatcher, described, open_watcher
from qcompress.zoo.jobs import Event, Figures, Job, Kind, Outcome, Status
from qcompress.zoo.run import Decision

DONE = Outcome("deep/a", Status.DONE, figures=Figures(100, 25, 1.5, 0.01), seconds=61.0)
DECISIONS = [
    Decision(Job("deep/a", "a.onnx", "out/a.onnx"), {}, "new"),
    Decision(Job("b", "b.onnx", "out/b.onnx"), {}, "new"),
    Decision(Job("old", "old.onnx", "out/old.onnx"), {}, "", DONE),
]


def shown(watcher: LiveWatcher) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(watcher.render())
    return stream.getvalue()


def test_the_live_table_follows_the_events():
    watcher = LiveWatcher()
    watcher.begin(DECISIONS)
    for name in ("deep/a", "b"):
        watcher.heard(Event(name, Kind.STARTED))
    watcher.heard(Event("deep/a", Kind.STAGE, "Calibrating", total=40))
    watcher.heard(Event("deep/a", Kind.ADVANCED, "Calibrating", done=10))
    watcher.heard(Event("b", Kind.PAUSED))
    text = shown(watcher)
    assert "0 of 2 models, 1 stand" in text
    assert all(word in text for word in ("deep/a", "Calibrating", "25 %", "starting (paused)", "model", "elapsed"))
    watcher.heard(Event("b", Kind.RESUMED))
    watcher.heard(Event("deep/a", Kind.ENDED, text="done"))
    watcher.ended(DONE)
    text = shown(watcher)
    assert "Calibrating" not in text
    assert "paused" not in text
    assert "deep/a: done, 0.250 of the size, 1.50 times as fast, drop 0.0100, 61 s" in text
    assert "1 of 2 models" in text


def test_lines_are_few_unless_asked_for(capsys: pytest.CaptureFixture[str]):
    for verbose in (False, True):
        watcher = LineWatcher(verbose)
        watcher.begin(DECISIONS)
        watcher.heard(Event("b", Kind.STARTED))
        watcher.heard(Event("b", Kind.STAGE, "Calibrating"))
        watcher.heard(Event("b", Kind.ADVANCED, "Calibrating", done=1))
        watcher.ended(Outcome("b", Status.CRASHED, cause="ended by SIGSEGV", seconds=2.0))
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "2 of 3 models to compress, the results of 1 stand"
        assert lines[-1] == "[1/2] b: crashed, 2 s: ended by SIGSEGV"
        assert lines[1:-1] == (["b: started", "b: Calibrating"] if verbose else [])


def test_who_watches_is_chosen_by_what_is_asked_for():
    with open_watcher(Talk(quiet=True), json_progress=False) as watcher:
        assert isinstance(watcher, SilentWatcher)
    with open_watcher(Talk(), json_progress=False) as watcher:
        assert isinstance(watcher, LineWatcher)


def test_a_failed_gate_is_told_in_the_line():
    failed = Outcome("a", Status.GATE_FAILED, cause="too large", figures=Figures(100, 90), seconds=1.0)
    assert described(failed) == "a: gate failed, 0.900 of the size, 1 s: too large"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6GB", 6 * 10**9),
        ("512 mb", 512 * 10**6),
        ("1.5GiB", 3 * 2**29),
        ("100", 100),
        ("much", None),
        ("0", None),
        ("-1GB", None),
    ],
)
def test_sizes(text, value):
    if value is None:
        with pytest.raises(click.BadParameter, match="not a size"):
            Bytes().convert(text, None, None)
    else:
        assert Bytes().convert(text, None, None) == value


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("1.5h", 5400), ("10m", 600), ("0", 0), ("soon", None)])
def test_times(text, value):
    if value is None:
        with pytest.raises(click.BadParameter, match="not a time"):
            Duration().convert(text, None, None)
    else:
        assert Duration().convert(text, None, None) == value
