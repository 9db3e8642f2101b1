"""A process that has everything loaded and forks a ``qcompress`` for each command line it is sent: starting takes 10 ms, not 1 s.

Requests come over a socket: a header with three file descriptors, the new process' stdin, stdout and stderr, then a JSON object;
answers go back as one JSON object a line: the process' number, and later its exit code. Run by the local engine of batch.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from qcompress.cli import main
from qcompress.cli.supervised import end_with_parent
from qcompress.errors import ExitCode
from qcompress.zoo.starting import HEADER


def serve(connection: socket.socket) -> None:
    """Fork what is asked for until the other end is closed."""
    wake, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sources: list[Any] = [connection, wake]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if wake in ready:
            os.read(wake, 4096)
            _tell_ended(connection)
        if connection in ready:
            header, descriptors, _, _ = socket.recv_fds(connection, HEADER.size, 3)
            if not header:
                return
            text = _received(connection, *HEADER.unpack(header))
            _tell(connection, {"started": _fork(json.loads(text), descriptors, connection)})
            for descriptor in descriptors:
                os.close(descriptor)


def _received(connection: socket.socket, count: int) -> bytes:
    """So many bytes; fewer when the other end is closed."""
    parts = []
    while count and (part := connection.recv(min(count, 1 << 16))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _fork(request: Mapping[str, Any], descriptors: list[int], connection: socket.socket) -> int:
    """The number of the new process, which leads a session of its own by then."""
    begun, begins = os.pipe()
    number = os.fork()
    if number == 0:
        code = int(ExitCode.BUG)
        try:
            os.setsid()
            os.write(begins, b"!")
            connection.close()
            code = _become(request, descriptors)
        finally:
            os._exit(code)
    os.close(begins)
    os.read(begun, 1)
    os.close(begun)
    return number


def _become(request: Mapping[str, Any], descriptors: list[int]) -> int:
    """In the new process: run the command line as if it had been started with it; its exit code."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.default_int_handler)
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # it may have been chosen already
    if request["folder"]:
        os.chdir(request["folder"])
    try:
        main(list(request["words"]), prog_name="qcompress")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(ExitCode.BUG)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    return int(ExitCode.DONE)


def _tell_ended(connection: socket.socket) -> None:
    """Answer for every process that has ended."""
    with suppress(ChildProcessError):
        while True:
            number, status = os.waitpid(-1, os.WNOHANG)
            if number == 0:
                return
            _tell(connection, {"ended": number, "code": os.waitstatus_to_exitcode(status)})


def _tell(connection: socket.socket, answer: Mapping[str, int]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    end_with_parent()
    import_module("qcompress.pipeline")
    import_module("qcompress.report")
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
