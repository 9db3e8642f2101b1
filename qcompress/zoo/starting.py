"""Starting the process of a job: as a new interpreter, or forked from one that has everything loaded."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Protocol

PYTHON = (sys.executable, "-P", "-X", "faulthandler")
"""No modules from the working directory; where a crash in native code happened goes to stderr."""

CAN_FORK = sys.platform == "linux"
"""Elsewhere libraries do not survive a fork."""

HEADER = struct.Struct("!Q")
"""What comes with the descriptors of a request: the bytes of its text, which follows; a stream cuts long ones in parts."""

PATIENCE_SECONDS = 0.5
"""Between looks at whether a nursery that is waited for was closed."""


@dataclass(frozen=True, slots=True)
class Order:
    """A command line of qcompress: its words, its folder, its environment, and which of it is of this process alone."""

    words: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    own: Mapping[str, str] = field(default_factory=dict)


class Process(Protocol):
    """A started process that leads a group of its own."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def wait(self) -> int:
        """Wait for its end."""


def start(order: Order, log: IO[bytes]) -> Process:
    """A new interpreter."""
    return subprocess.Popen(
        [*PYTHON, "-m", "qcompress", *order.words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=order.folder or None,
        env={**order.environment, **order.own},
        start_new_session=True,
    )


@dataclass(slots=True)
class Nursery:
    """An interpreter that forks; see ``cli/nursery.py``. It ends with this process, and its forks with it."""

    environment: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = None
    _connection: socket.socket | None = None
    _text: bytes = b""
    _started: list[int] = field(default_factory=list)
    _codes: dict[int, int] = field(default_factory=dict)
    gone: bool = False
    """Whether it has ended, and all that ran with it; what is started then is a new interpreter."""

    def start(self, order: Order, log: IO[bytes]) -> Process:
        """Fork a process; where that is not possible, a new interpreter."""
        if not CAN_FORK or self.gone:
            return start(order, log)
        connection = self._open()
        (their_in, stdin), (stdout, their_out) = os.pipe(), os.pipe()
        try:
            request = {"words": list(order.words), "folder": order.folder, "environment": dict(order.own)}
            with suppress(OSError):
                text = json.dumps(request).encode()
                socket.send_fds(connection, [HEADER.pack(len(text))], [their_in, their_out, log.fileno()])
                connection.sendall(text)
                while not self._started and not self.gone:
                    self._listen(PATIENCE_SECONDS)
        finally:
            os.close(their_in)
            os.close(their_out)
        pipes = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        if not self._started:
            self.gone = True
            for pipe in pipes:
                pipe.close()
            return start(order, log)
        return _Forked(self._started.pop(), *pipes, self)

    def code_of(self, number: int, blocking: bool = False) -> int | None:
        """The exit code of a forked process, None while it runs; all that run end with a nursery that dies."""
        self._listen()
        while blocking and number not in self._codes and not self.gone:
            self._listen(PATIENCE_SECONDS)
        return self._codes.get(number, -9 if self.gone else None)

    def close(self) -> None:
        """End it."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection, self._process, self.gone = None, None, True

    def _open(self) -> socket.socket:
        if self._connection is None:
            self._connection, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [*PYTHON, "-m", "qcompress.cli.nursery", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=dict(self.environment),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        return self._connection

    def _listen(self, seconds: float = 0.0) -> None:
        """Read the answers that have come, or come within so many seconds."""
        if self._connection is None or self.gone:
            return
        try:
            if not select.select([self._connection], [], [], seconds)[0]:
                return
            block = self._connection.recv(1 << 16)
        except (OSError, ValueError):  # closed meanwhile
            block = b""
        self.gone = not block
        *lines, self._text = (self._text + block).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "started" in answer:
                self._started.append(answer["started"])
                self._codes.pop(answer["started"], None)  # of an earlier process with this number
            else:
                self._codes[answer["ended"]] = answer["code"]


@dataclass(slots=True)
class _Forked:
    """A process of the nursery."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    nursery: Nursery

    def poll(self) -> int | None:
        """Its exit code."""
        return self.nursery.code_of(self.pid)

    def wait(self) -> int:
        """Wait for its end."""
        code = self.nursery.code_of(self.pid, blocking=True)
        return -9 if code is None else code
