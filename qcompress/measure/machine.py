"""Which machine this is, as far as measured times depend on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from qcompress.results import MachineFacts
from qcompress.runtime import version

_CPU_TABLE = Path("/proc/cpuinfo")


def machine_facts(threads: int = 0) -> MachineFacts:
    """The processor, its cores, the runtime and the number of threads it is given (0: the runtime's default)."""
    return MachineFacts(_cpu(), platform.machine(), os.cpu_count() or 0, threads, f"onnxruntime {version()}")


def _cpu() -> str:
    """The processor's name, its family where the system does not say more."""
    if _CPU_TABLE.is_file():
        facts = [line.split(":", 1) for line in _CPU_TABLE.read_text(encoding="utf-8").splitlines() if ":" in line]
        names = [value.strip() for key, value in facts if key.strip() == "model name"]
        models = [value.strip() for key, value in facts if key.strip() in ("cpu family", "model")][:2]
        if names:
            return " ".join([names[0], *(["model", "/".join(models)] if models else [])])
    return platform.processor() or platform.machine()
