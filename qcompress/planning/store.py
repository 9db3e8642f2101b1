"""What was measured, kept in a file: an interrupted search goes on where it was, and the same measurements give the same plan."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import monotonic
from typing import Any

from qcompress.errors import OutputError, RecipeError
from qcompress.plan.cost import CostTable

STORE_VERSION = 1

SAVE_SECONDS = 1.0
"""So much work is lost at most when the command is interrupted."""

CACHE_VARIABLE = "QCOMPRESS_CACHE"
"""Environment variable: the folder of measurements; empty to keep none."""


@dataclass(slots=True)
class Measurements:
    """Costs, losses and speed-ups by what they were measured on.

    ``path``: the file, None to keep nothing. ``about``: the model, data and threads they hold for.
    """

    path: Path | None
    about: Mapping[str, str]
    costs: CostTable | None = None
    losses: dict[str, float] = field(default_factory=dict)
    speedups: dict[str, float] = field(default_factory=dict)
    saved: float = field(default_factory=monotonic)

    def loss(self, key: str, measure: Callable[[], float]) -> float:
        """A loss measured before, or measured now."""
        if key not in self.losses:
            self.losses[key] = measure()
            self.save_now_and_then()
        return self.losses[key]

    def speedup(self, key: str, measure: Callable[[], float]) -> float:
        """A speed-up measured before, or measured now."""
        if key not in self.speedups:
            self.speedups[key] = measure()
            self.save_now_and_then()
        return self.speedups[key]

    def save_now_and_then(self) -> None:
        """Write the file if enough was measured since it was last written."""
        if monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file atomically.

        Raises:
            OutputError: the folder is not there or the disk is full.
        """
        self.saved = monotonic()
        if self.path is None:
            return
        table = {
            "version": STORE_VERSION,
            "about": dict(sorted(self.about.items())),
            "costs": None if self.costs is None else json.loads(self.costs.to_json()),
            "losses": dict(sorted(self.losses.items())),
            "speedups": dict(sorted(self.speedups.items())),
        }
        try:
            with NamedTemporaryFile("w", dir=self.path.parent, suffix=".part", delete=False, encoding="utf-8") as part:
                try:
                    part.write(json.dumps(table, indent=1) + "\n")
                    part.close()
                    Path(part.name).replace(self.path)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror}", "check the folder and the space"
            ) from error


def open_measurements(about: Mapping[str, str], machine: str, file: Path | None) -> Measurements:
    """Measurements from the file the user names, else from the cache of this machine, else none yet.

    Args:
        about: what the measurements are of; a named file must agree.
        machine: what the cache must agree with besides; a named file may come from the machine where the model will run.
        file: named by the user, need not exist yet.

    Raises:
        RecipeError: the file the user named is not one, or is about another model, other data or other threads.
    """
    if file is not None:
        return _read(file, about) if file.exists() else Measurements(file, about)
    folder = cache_folder()
    if folder is None:
        return Measurements(None, about)
    path = folder / f"{key_of(machine + json.dumps(dict(sorted(about.items()))))}.json"
    try:
        return _read(path, about) if path.exists() else Measurements(path, about)
    except RecipeError:  # damaged or of an older version: measured again
        return Measurements(path, about)


def cache_folder() -> Path | None:
    """The folder of measurements, made if need be; None when it is switched off or cannot be made."""
    wanted = os.environ.get(CACHE_VARIABLE)
    if wanted == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(wanted) if wanted else Path(base) / "qcompress"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def key_of(text: str) -> str:
    """A short name for a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path: Path, about: Mapping[str, str]) -> Measurements:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if table["version"] != STORE_VERSION:
            raise RecipeError(f"{path}: not measurements of version {STORE_VERSION}", "give --cost-file another name")
        for key, value in about.items():
            if table["about"].get(key) != value:
                found = table["about"].get(key)
                raise RecipeError(
                    f"{path}: measured with other {key}: {found}, not {value}", "give another --cost-file for this one"
                )
        costs = None if table["costs"] is None else CostTable.from_json(json.dumps(table["costs"]))
        losses = {str(key): float(value) for key, value in table["losses"].items()}
        speedups = {str(key): float(value) for key, value in table["speedups"].items()}
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}", "check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: these are not measurements: {error!r}", "give --cost-file another name") from error
    return Measurements(path, about, costs, losses, speedups)
