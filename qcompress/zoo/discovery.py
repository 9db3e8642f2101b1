"""Models found in a folder, each with the data that lies with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qcompress.errors import ModelError, UsageError
from qcompress.remote import join, list_files
from qcompress.zoo.state import SCRATCH, is_state

PATTERN = "**/*.onnx"

SETS = "test_data_set_*"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model and what is different about it; ``options``: of compress, flag -> values. Paths are absolute."""

    name: str
    model: str
    data: str | None = None
    eval_data: str | None = None
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: float | None = None


def discover(folder: Path, pattern: str = PATTERN, apart_from: Path | None = None) -> list[Entry]:
    """The models of a folder in the order of their names, each called by its place in it without the suffix.

    A model's data is found in one of these, in this order: ``NAME.calib.npz`` and ``NAME.eval.npz`` beside it, a folder
    ``NAME`` beside it with ``test_data_set_*`` in it, ``test_data_set_*`` beside it. Hidden folders, ``apart_from``,
    where results go (when that lies in the folder), and results of other batches are left out.

    Raises:
        ModelError: no such folder, or no model in it.
        UsageError: the pattern is none.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder or manifest", "give a folder of models, or a .toml file that lists them")
    home = folder.absolute()
    results = {marker.parent for marker in home.glob(f"**/{SCRATCH}")}
    if apart_from is not None and apart_from.resolve().is_relative_to(home.resolve()):
        results.add(home / apart_from.resolve().relative_to(home.resolve()))
    results.discard(home)
    try:
        paths = sorted(home.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"{pattern!r} is no pattern within a folder", "write for example '**/*.onnx'") from error
    found = []
    for path in paths:
        inside = path.relative_to(home)
        hidden = any(part.startswith(".") for part in inside.parts)
        result = is_state(path.with_suffix(".state.json")) or any(path.is_relative_to(folder) for folder in results)
        if hidden or result or not path.is_file():
            continue
        data, eval_data = data_of(path)
        found.append(Entry(inside.with_suffix("").as_posix(), str(path), data, eval_data))
    if not found:
        raise ModelError(f"{folder}: there is no {pattern}", "name the models' pattern with --pattern")
    return found


def discover_at(url: str, pattern: str = PATTERN, apart_from: str = "") -> list[Entry]:
    """``discover`` at a URL.

    Raises:
        ModelError: there is no model.
        RemoteError: it cannot be listed.
    """
    files = list_files(url)
    inner = apart_from.startswith(f"{url.rstrip('/')}/")
    found = []
    for name, place in list_files(url, pattern).items():
        stem, folder = name.removesuffix(".onnx"), name.rpartition("/")[0]
        hidden = any(part.startswith(".") for part in name.split("/"))
        result = f"{stem}.state.json" in files or (inner and place.startswith(f"{apart_from.rstrip('/')}/"))
        if not hidden and not result:
            calib, evaluation = (files.get(f"{stem}.{part}.npz") for part in ("calib", "eval"))
            sets = (home for home in (stem, folder) if any(_in_sets(other, home) for other in files))
            data = calib or next((join(url, home) if home else url for home in sets), None)
            found.append(Entry(stem, place, data, evaluation))
    if not found:
        raise ModelError(f"{url}: there is no {pattern}", "name the models' pattern with --pattern")
    return found


def _in_sets(name: str, home: str) -> bool:
    """Whether a file lies in one of the test data sets of a folder."""
    return name.startswith(f"{home}/{SETS[:-1]}" if home else SETS[:-1])


def data_of(model: Path) -> tuple[str | None, str | None]:
    """Calibration and evaluation data that lie with a model."""
    sides = (model.with_name(f"{model.stem}.{part}.npz") for part in ("calib", "eval"))
    calib, evaluation = (str(side) if side.is_file() else None for side in sides)
    if calib is not None:
        return calib, evaluation
    for folder in (model.with_suffix(""), model.parent):
        if any(item.is_dir() for item in folder.glob(SETS)):
            return str(folder), evaluation
    return None, evaluation
