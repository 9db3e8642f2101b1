"""The one place where an exception becomes a line on stderr and an exit code, and a signal becomes an exception."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import click

from qcompress.cli.github import annotate
from qcompress.errors import ExitCode, QcompressError

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""
UNHEARD = 141
"""128 + SIGPIPE."""

_STOPS = (signal.SIGINT, signal.SIGTERM)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, *_NO_SPACE)


class StoppedError(BaseException):
    """Ctrl-C or SIGTERM arrived; not an ``Exception``, so that only ``finally`` blocks see it on its way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(slots=True)
class Talk:
    """How much to say, as the options of the running command have it."""

    quiet: bool = False
    verbose: bool = False
    supervised: bool = False
    """Progress goes to the supervisor of many such processes; stdout is taken."""


class GuardedGroup(click.Group):
    """A group of commands whose every failure is told in one line."""

    def main(  # click overloads it to say that the process ends here
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and leave the process with its exit code.

        Without ``standalone_mode`` nothing is caught, as click has it.
        """
        name = prog_name or "qcompress"
        if not standalone_mode:
            return super().main(args, name, complete_var, standalone_mode=False, **extra)
        talk = Talk()
        with _signals(), _warnings():
            try:
                code = super().main(args, name, complete_var, standalone_mode=False, obj=talk, **extra)
                code = code if isinstance(code, int) else ExitCode.DONE
            except BaseException as error:
                code = _tell(error, talk)
        sys.exit(int(code))


def _tell(error: BaseException, talk: Talk) -> int:
    """Say on stderr what went wrong; return the exit code."""
    if talk.verbose and not isinstance(error, SystemExit | click.ClickException):
        import traceback

        traceback.print_exception(error)
    match error:
        case QcompressError():
            return _lines(error.message, error.hint, error.exit_code)
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return ExitCode.USAGE
        case click.ClickException():
            context = getattr(error, "ctx", None)
            return _lines(error.format_message(), f"see {context.command_path} --help" if context else "", ExitCode.USAGE)
        case StoppedError():
            name = "" if error.number == signal.SIGINT else f" by {signal.Signals(error.number).name}"
            return _lines(f"interrupted{name}", "nothing was left half-written", 128 + error.number)
        case KeyboardInterrupt() | click.Abort() | EOFError():
            return _lines("interrupted", "nothing was left half-written", INTERRUPTED)
        case SystemExit():
            return error.code if isinstance(error.code, int) else ExitCode.BUG
        case BrokenPipeError():
            return UNHEARD  # stderr has no reader, so there is nobody to tell
        case MemoryError():
            return _lines("not enough memory", "try a smaller --batch-size or a machine with more memory", ExitCode.UNUSABLE)
        case OSError() if error.errno in _REFUSED:
            where = f"{error.filename}: " if error.filename else ""
            hint = "free some space" if error.errno in _NO_SPACE else "check the permissions"
            return _lines(f"{where}{error.strerror}", hint, ExitCode.UNUSABLE)
        case _:
            words = " ".join(str(error).split())[:200]
            hint = "run again with -v for the traceback, and report it" if not talk.verbose else "please report it"
            return _lines(f"this is a bug in qcompress: {type(error).__name__}: {words}", hint, ExitCode.BUG)


def _lines(message: str, hint: str, code: int) -> int:
    """Print the error and its hint, one line each however the message was written."""
    text = f"qcompress: error: {' '.join(message.split())}\n"
    if hint:
        text += f"hint: {' '.join(hint.split())}\n"
    try:
        annotate("qcompress", f"{message} ({hint})" if hint else message)
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # nobody reads stderr any more; the exit code still tells
        pass
    return int(code)


@contextmanager
def _signals() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an exception in the main thread, so that ``finally`` blocks remove what is half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup and shells want it for jobs in the background
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for other in _STOPS:
        signal.signal(other, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    raise StoppedError(number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the end: native modules crash when an exception cuts their initialization short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: waiting.append(number)) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


@contextmanager
def _warnings() -> Iterator[None]:
    """Keep the libraries' warnings off stderr, unless ``python -W`` asks for them."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
