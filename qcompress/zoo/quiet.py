"""Quiet for whoever measures time: on one machine one process at a time may, and the others pause meanwhile.

The lock is a file that every supervisor of this user on this machine looks at, whichever engine or command it belongs to: in
the folder for temporary files, or where ``QCOMPRESS_CACHE`` says. The system gives it back when its holder dies.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from qcompress.planning.store import CACHE_VARIABLE

SETTLING_SECONDS = 0.2
"""Between getting the lock and beginning: supervisors look every ``POLL_SECONDS``, and must have stopped their processes."""


_SAFELY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Quiet:
    """One supervisor's view of the lock."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or _default_path()
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this one may measure."""
        return self._file is not None

    def take(self) -> bool:
        """Try to get the lock; without locks on this system everybody gets it."""
        if self._file is None:
            self._file = self._locked(exclusive=True)
        return self._file is not None

    def give_back(self) -> None:
        """Let the others go on."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def wanted_elsewhere(self) -> bool:
        """Whether another one is measuring, so that everything else should stand still."""
        if self._file is not None:
            return False
        file = self._locked(exclusive=False)
        if file is None:
            return True
        os.close(file)
        return False

    def _locked(self, exclusive: bool) -> int | None:
        """An open file with the lock on it, None when another has it."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        except (
            OSError
        ):  # no folder for temporary files, or somebody else's file: measured without quiet rather than not at all
            return os.open(os.devnull, os.O_RDONLY)
        if sys.platform == "win32":
            return file
        import fcntl

        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return None
        return file


def _default_path() -> Path:
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = os.environ.get(CACHE_VARIABLE) or tempfile.gettempdir()
    return Path(folder) / f"qcompress-{owner}-{platform.node()}.timing.lock"
