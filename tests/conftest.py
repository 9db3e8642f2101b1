"""Fixtures that tests of several folders share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import Sample, make_samples

ROOT = Path(__file__).resolve().parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in jobs started in the background; processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Options and measurements of the caller must not reach the tests, nor theirs the caller."""
    for key in [key for key in os.environ if key.startswith(("QCOMPRESS_", "GITHUB_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("QCOMPRESS_CACHE", str(tmp_path_factory.mktemp("measurements")))
    monkeypatch.setattr("qcompress.planning.make.SECONDS_TO_PROFILE", 0.3)  # tests need costs, not good ones
    monkeypatch.setattr("qcompress.planning.make.SECONDS_TO_TIME", 0.2)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """Three small models: ``conv``, ``mlp`` and ``embedding``."""
    return make_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def mlp(samples: dict[str, Sample]) -> Sample:
    """The quickest of the small models."""
    return samples["mlp"]


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``qcompress`` as a process of its own; keyword arguments go to ``subprocess.run``."""

    def run(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120, "env": environment, **options}
        return subprocess.run([sys.executable, "-m", "qcompress", *map(str, args)], check=False, **settings)

    return run
