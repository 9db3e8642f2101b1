"""What the system says about processes and memory: read from /proc where there is one, from psutil if it is installed."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_CGROUP = Path("/sys/fs/cgroup")

CAN_PAUSE = hasattr(signal, "SIGSTOP")
CAN_MEASURE = (_PROC / "self" / "statm").exists()


def tree_memory(pid: int, children: bool = True) -> int:
    """Bytes that a process and its descendants hold in memory (RSS; pages they share count for each); 0 when it is gone."""
    if not CAN_MEASURE:
        return _psutil_memory(pid, children)
    total, waiting = 0, [pid]
    while waiting:
        current = waiting.pop()
        with suppress(OSError, ValueError, IndexError):  # it may end at any moment
            total += int((_PROC / str(current) / "statm").read_text(encoding="ascii").split()[1]) * _PAGE
            for listed in (_PROC / str(current) / "task").glob("*/children") if children else ():
                waiting += [int(word) for word in listed.read_text(encoding="ascii").split()]
    return total


def available_memory() -> int | None:
    """Bytes that can still be taken without swapping, within the limit of the container; None where nobody knows."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" is not a number: no limit
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        found.append(max(limit - int((_CGROUP / "memory.current").read_text(encoding="ascii")), 0))
    return min(found) if found else None


def killed_for_memory() -> int | None:
    """How many processes the system has killed for want of memory so far; None where it does not tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / "vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def kill_group(pid: int) -> None:
    """End a process that leads a group, and all of its group, stopped ones too."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def pause_group(pid: int) -> None:
    """Stop a process and its group until ``resume_group``."""
    if CAN_PAUSE:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGSTOP)


def resume_group(pid: int) -> None:
    """Let a stopped group go on."""
    if CAN_PAUSE:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGCONT)


def _psutil_memory(pid: int, children: bool) -> int:
    try:
        psutil = import_module("psutil")
    except ImportError:
        return 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        family = (process, *(process.children(recursive=True) if children else ()))
        return sum(int(item.memory_info().rss) for item in family)
    return 0
