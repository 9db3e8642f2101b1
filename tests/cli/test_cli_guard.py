"""Every failure becomes one line, a hint and an exit code; signals too."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import click
import pytest
from click.testing import CliRunner

from qcompress.cli.guard import GuardedGroup, uninterrupted
from qcompress.cli.options import talk_options
from qcompress.errors import DataError, ExitCode, NothingToCompressError, OutputError, UsageError


def failing(error: BaseException) -> GuardedGroup:
    """A command line with one command, which fails."""

    @click.command()
    @talk_options
    def fail(_talk: object) -> None:
        raise error

    return GuardedGroup("group", commands={"fail": fail})


CASES = [
    (DataError("x is NaN", "look at the data"), 3, "qcompress: error: x is NaN\nhint: look at the data\n"),
    (OutputError("no hint here"), 3, "qcompress: error: no hint here\n"),
    (UsageError("a\nmessage\n  of lines", "and\na hint"), 2, "qcompress: error: a message of lines\nhint: and a hint\n"),
    (NothingToCompressError("no weights"), 4, "qcompress: error: no weights\n"),
    (EOFError(), 130, "\nqcompress: error: interrupted\n"),
    (MemoryError(), 3, "qcompress: error: not enough memory\n"),
    (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.onnx"),
        3,
        "qcompress: error: out.onnx: No space left on device\n",
    ),
    (
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out.onnx"),
        3,
        "qcompress: error: out.onnx: Permission denied\n",
    ),
    (click.BadParameter("is wrong"), 2, "qcompress: error: Invalid value: is wrong\n"),
    (
        ZeroDivisionError("division by zero"),
        70,
        "qcompress: error: this is a bug in qcompress: ZeroDivisionError: division by zero\n",
    ),
    (RecursionError("deep"), 70, "qcompress: error: this is a bug in qcompress: RecursionError: deep\n"),
]


@pytest.mark.parametrize(("error", "code", "text"), CASES, ids=lambda value: type(value).__name__)
def test_a_failure_is_one_line_and_an_exit_code(error: BaseException, code: int, text: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(text)
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


def test_verbose_shows_the_traceback() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("why")), ["fail", "-v"])
    assert result.exit_code == ExitCode.BUG
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert "this is a bug in qcompress" in result.stderr


def test_a_bug_says_how_to_see_more() -> None:
    assert "-v" in CliRunner().invoke(failing(ZeroDivisionError()), ["fail"]).stderr


def test_quiet_and_verbose_do_not_go_together() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError()), ["fail", "-q", "-v"])
    assert result.exit_code == ExitCode.USAGE


def test_the_exit_code_of_a_command_is_that_of_the_process() -> None:
    @click.command()
    def gate() -> ExitCode:
        return ExitCode.GATE_FAILED

    assert CliRunner().invoke(GuardedGroup("group", commands={"gate": gate}), ["gate"]).exit_code == 1


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, " by SIGTERM"), (signal.SIGINT, 130, "")])
def test_a_signal_runs_the_finally_blocks_and_a_second_one_does_not_stop_them(number: int, code: int, name: str) -> None:
    seen = []

    @click.command()
    def wait() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        try:
            time.sleep(10)
        finally:
            os.kill(os.getpid(), number)
            seen.append("cleaned")

    before = signal.getsignal(number)
    result = CliRunner().invoke(GuardedGroup("group", commands={"wait": wait}), ["wait"])
    assert result.exit_code == code
    assert seen == ["cleaned"]
    assert result.stderr.startswith(f"qcompress: error: interrupted{name}\n")
    assert signal.getsignal(number) is before


def test_a_signal_waits_for_the_end_of_an_import() -> None:
    seen = []

    @click.command()
    def load() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            seen.append("loaded")
        seen.append("never")

    result = CliRunner().invoke(GuardedGroup("group", commands={"load": load}), ["load"])
    assert (result.exit_code, seen) == (143, ["loaded"])
