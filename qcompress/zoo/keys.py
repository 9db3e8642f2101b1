"""What decides a result: the content of everything that is read, and the versions of what reads it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from pathlib import Path

from qcompress.data import data_files
from qcompress.errors import QcompressError
from qcompress.graph import model_files
from qcompress.pipeline import versions
from qcompress.recipe import RECIPES
from qcompress.remote import fingerprint, is_url, list_files
from qcompress.zoo.jobs import Job
from qcompress.zoo.places import digest_file

KEY_VERSION = "1"
"""Another one when the meaning of the parts changes, so that earlier results no longer stand."""

FILE_OPTIONS = ("--recipe", "--plan", "--cost-file", "--baseline")
"""Options that name a file whose content decides."""

DATA_OPTIONS = ("--timing-data",)
"""Options that name data."""


@dataclass(slots=True)
class Keys:
    """Makes keys; what several models share is read once."""

    _files: dict[Path, str] = field(default_factory=dict)
    _data: dict[str, str] = field(default_factory=dict)

    def parts(self, job: Job) -> dict[str, str]:
        """What the result of a job depends on, by name, so that a difference can be told."""
        named = {flag: job.options[flag] for flag in (*FILE_OPTIONS, *DATA_OPTIONS) if flag in job.options}
        read = [self._named(value) for flag in FILE_OPTIONS for value in named.get(flag, ())]
        read += [self._dataset(value, job.folder) for flag in DATA_OPTIONS for value in named.get(flag, ())]
        options = {flag: list(values) for flag, values in sorted(job.options.items()) if flag not in named}
        return {
            "model": self._model(job.model),
            "data": "" if job.data is None else self._dataset(job.data, job.folder),
            "evaluation data": "" if job.eval_data is None else self._dataset(job.eval_data, job.folder),
            "options": _digest([json.dumps(options), *read]),
            "versions": _told({"key": KEY_VERSION, **versions()}),
        }

    def _model(self, place: str) -> str:
        """Of the file and its external data; a file that is no model counts with its bytes, one out of reach with its name."""
        path = Path(place)
        if is_url(place):
            with suppress(QcompressError):  # the job says what is wrong with it
                return _model_at(place)
            return place
        try:
            files = model_files(path)
        except QcompressError:
            files = [path]
        return self._joined(path.parent, files)

    def _dataset(self, spec: str, folder: str) -> str:
        """Of all files that reading the data reads; code is found from the folder the job runs in."""
        if is_url(spec):
            return _digest([spec, fingerprint(spec)])
        if spec not in self._data:
            try:
                with chdir(folder or os.curdir):
                    files = sorted(file.absolute() for file in data_files(spec))
            except QcompressError:  # the job says what is wrong with it
                files = []
            home = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
            self._data[spec] = self._joined(home, files) if files else spec
        return self._data[spec]

    def _named(self, value: str) -> str:
        """Of a file that an option names; a recipe's name stands for itself."""
        return value if value in RECIPES else self._joined(Path(value).parent, [Path(value)])

    def _joined(self, home: Path, files: Iterable[Path]) -> str:
        """Of several files: their names within ``home`` and their content."""
        return _digest(word for file in files for word in (os.path.relpath(file, home), self._file(file)))

    def _file(self, path: Path) -> str:
        if path not in self._files:
            try:
                self._files[path] = digest_file(path)
            except OSError:
                self._files[path] = "cannot be read"
        return self._files[path]


def _model_at(url: str) -> str:
    """Of a model at a URL, by what the storage says of it and of what may be its external data: the files beside it whose
    name begins with its own, or all when there is no other model.
    """
    name = url.rpartition("/")[2]
    others = list_files(url.rpartition("/")[0], "*")
    alone = sum(other.endswith(".onnx") for other in others) <= 1
    stem = name.removesuffix(".onnx")
    files = sorted(other for other in others if other == name or alone or other.startswith(f"{stem}."))
    files += sorted(other for other in others if other.startswith(f"{stem}_") and not alone and not other.endswith(".onnx"))
    return _digest(word for other in files for word in (other, fingerprint(others[other])))


def key_of(parts: Mapping[str, str]) -> str:
    """One key for all parts."""
    return _digest(f"{name}={value}" for name, value in sorted(parts.items()))


def _told(table: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(table.items()))


def _digest(words: Iterable[str]) -> str:
    sha = hashlib.sha256()
    for word in words:
        sha.update(f"{len(word)}:{word}".encode())
    return sha.hexdigest()
