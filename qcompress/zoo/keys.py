"""What decides a result: the content of everything that is read, and the versions of what reads it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from qcompress.data.functions import is_function
from qcompress.errors import QcompressError
from qcompress.pipeline import versions
from qcompress.recipe import RECIPES
from qcompress.remote import data_fingerprint, fingerprint, is_url, list_files
from qcompress.zoo.inputs import CODE_OPTIONS, DATA_OPTIONS, FILE_OPTIONS, Inputs
from qcompress.zoo.jobs import Job
from qcompress.zoo.places import digest_file

KEY_VERSION = "2"
"""Another one when the meaning of the parts changes, so that earlier results no longer stand."""

COSTS = "--cost-file"
"""The one input that a run also writes."""

NO_WEIGHTS = (
    ".onnx",
    ".npz",
    ".json",
    ".log",
    ".md",
    ".csv",
    ".html",
    ".txt",
    ".toml",
    ".yaml",
    ".yml",
    ".xml",
    ".py",
    ".part",
)
"""Ends of names of files that are no external data; at a URL nobody reads the model to see what is."""


@dataclass(slots=True)
class Keys:
    """Makes keys; what several models share is read once."""

    inputs: Inputs = field(default_factory=Inputs)
    _files: dict[Path, str] = field(default_factory=dict)

    def parts(self, job: Job) -> dict[str, str]:
        """What the result of a job depends on, by name, so that a difference can be told."""
        named = [flag for flag in FILE_OPTIONS if flag != COSTS]
        read = [self._named(value) for flag in named for value in job.options.get(flag, ())]
        read += [self._dataset(value, job.folder) for flag in DATA_OPTIONS for value in job.options.get(flag, ())]
        read += [self._dataset(value, job.folder) for flag in CODE_OPTIONS for value in job.options.get(flag, ())]
        apart = (*FILE_OPTIONS, *DATA_OPTIONS, *CODE_OPTIONS)
        options = {flag: list(values) for flag, values in sorted(job.options.items()) if flag not in apart}
        return {
            "model": self._model(job.model),
            "data": "" if job.data is None else self._dataset(job.data, job.folder),
            "evaluation data": "" if job.eval_data is None else self._dataset(job.eval_data, job.folder),
            "options": _digest([json.dumps(options), *read]),
            "versions": _told({"key": KEY_VERSION, **versions()}),
            **self.written_by_run(job),
        }

    def written_by_run(self, job: Job) -> dict[str, str]:
        """The parts that a run changes itself: measurements it has made or added to."""
        return {"measurements": " ".join(self._named(value) for value in job.options.get(COSTS, ()))}

    def _model(self, place: str) -> str:
        """Of the file and its external data; a file that is no model counts with its bytes, one out of reach with its name."""
        if is_url(place):
            with suppress(QcompressError):  # the job says what is wrong with it
                return _model_at(place)
            return place
        return self._joined(Path(place).parent, self.inputs.model(place))

    def _dataset(self, spec: str, folder: str) -> str:
        """Of all files that reading the data, or calling the function, reads."""
        if is_url(spec):
            return _digest([spec, data_fingerprint(spec)])
        files = self.inputs.data(spec, folder)
        if not files:
            return spec
        content = self._joined(Path(os.path.commonpath([file.parent for file in files])), files)
        return _digest([spec, content]) if is_function(spec) else content

    def _named(self, value: str) -> str:
        """Of a file that an option names; a recipe's name stands for itself."""
        return value if value in RECIPES else self._joined(Path(value).parent, [Path(value)])

    def _joined(self, home: Path, files: Iterable[Path]) -> str:
        """Of several files: their names within ``home`` and their content."""
        return _digest(word for file in files for word in (os.path.relpath(file, home), self._file(file)))

    def _file(self, path: Path) -> str:
        if path not in self._files:
            self._files[path] = "cannot be read"
            with suppress(OSError):
                if path.is_file():  # a pipe would be waited for
                    self._files[path] = digest_file(path)
        return self._files[path]


def _model_at(url: str) -> str:
    """Of a model at a URL, by what the storage says of it and of what may be its external data: every file beside it that does
    not look like something else.
    """
    name = url.rpartition("/")[2]
    others = list_files(url.rpartition("/")[0], "*")
    files = sorted(other for other in others if other == name or not other.lower().endswith(NO_WEIGHTS))
    return _digest(word for other in files for word in (other, fingerprint(others[other])))


def key_of(parts: Mapping[str, str]) -> str:
    """One key for all parts."""
    return _digest(f"{name}={value}" for name, value in sorted(parts.items()))


def _told(table: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(table.items()))


def _digest(words: Iterable[str]) -> str:
    sha = hashlib.sha256()
    for word in words:
        sha.update(f"{len(word)}:{word}".encode("utf-8", "surrogateescape"))  # a file's name can be any bytes
    return sha.hexdigest()
