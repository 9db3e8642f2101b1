"""What a job reads from this machine: found in one place for keys, for Make, and to see that no result replaces any of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress.data import data_files
from qcompress.data.functions import function_files, is_function
from qcompress.errors import QcompressError
from qcompress.graph import model_files
from qcompress.recipe import RECIPES
from qcompress.remote import is_url
from qcompress.zoo.isolation import environment
from qcompress.zoo.jobs import Job
from qcompress.zoo.processes import kill_group
from qcompress.zoo.starting import PYTHON

FILE_OPTIONS = ("--recipe", "--plan", "--cost-file", "--baseline")
"""Options that name a file."""

DATA_OPTIONS = ("--timing-data",)
"""Options that name data."""

CODE_OPTIONS = ("--metric",)
"""Options that name a function of the user's."""

CODE_SECONDS = 60
"""Importing the user's code to see which files it is in may take so long; its own file stands for it then."""

_LIST = "from qcompress.zoo.inputs import tell_function_files; tell_function_files()"


@dataclass(slots=True)
class Inputs:
    """Finds the files that jobs read; what several jobs share is looked for once. What lies at a URL is left out."""

    _found: dict[tuple[str, str], tuple[Path, ...]] = field(default_factory=dict)
    """By place and folder; models have no folder, data always has one."""

    def of(self, job: Job) -> tuple[Path, ...]:
        """Every file that a job reads, each once."""
        specs = [job.data, job.eval_data, *_values(job, DATA_OPTIONS), *_values(job, CODE_OPTIONS)]
        files = [*self.model(job.model), *self.named(job)]
        files += [file for spec in specs if spec for file in self.data(spec, job.folder)]
        return tuple(dict.fromkeys(files))

    def model(self, place: str) -> tuple[Path, ...]:
        """A model and its external data; the file alone when it is no model."""
        key = (place, "")
        if key not in self._found:
            self._found[key] = () if is_url(place) else _model_files(Path(place))
        return self._found[key]

    def named(self, job: Job) -> tuple[Path, ...]:
        """Files that options name; recipes that come with qcompress are none."""
        return tuple(Path(value) for value in _values(job, FILE_OPTIONS) if value not in RECIPES)

    def data(self, spec: str, folder: str) -> tuple[Path, ...]:
        """All files that reading data, or calling a function, reads; none when there is no such data.

        Args:
            spec: a path, ``module:function`` or ``random``.
            folder: where the job runs, from where modules are found.
        """
        key = (spec, folder)
        if key not in self._found:
            self._found[key] = self._code(spec, folder) if is_function(spec) else _data_files(spec)
        return self._found[key]

    def _code(self, spec: str, folder: str) -> tuple[Path, ...]:
        """The files of a function, which are those of every function of its module."""
        module = (f"{spec.partition(':')[0]}:", folder)
        if not self._found.get(module):
            self._found[module] = _imported_files(spec, folder)
        return self._found[module] or module_file(spec, Path(folder or os.curdir))


def _values(job: Job, flags: tuple[str, ...]) -> list[str]:
    return [value for flag in flags for value in job.options.get(flag, ())]


def _model_files(path: Path) -> tuple[Path, ...]:
    with suppress(QcompressError, OSError):  # the job says what is wrong with it
        if path.is_file():
            return tuple(model_files(path))
    return (path,)


def _data_files(spec: str) -> tuple[Path, ...]:
    with suppress(QcompressError, OSError, ValueError):  # a URL, or the job says what is wrong with it
        return () if is_url(spec) else tuple(sorted(file.absolute() for file in data_files(spec)))
    return ()


def _imported_files(spec: str, folder: str) -> tuple[Path, ...]:
    """The files of a function of the user's, imported in a process of its own: it may crash, or never end."""
    with TemporaryDirectory(prefix="qcompress-") as scratch:
        answer = Path(scratch) / "files.json"
        process = subprocess.Popen(
            [*PYTHON, "-c", _LIST, spec, str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder or None,
            env=environment(0),
            start_new_session=True,
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(CODE_SECONDS)
        finally:
            kill_group(process.pid)
            process.wait()
        with suppress(OSError, ValueError, TypeError):
            return tuple(Path(file) for file in json.loads(answer.read_text(encoding="utf-8")))
    return ()


def tell_function_files() -> None:
    """In that process: write down the files of a function; both are named by the command line."""
    if hasattr(signal, "alarm"):
        signal.alarm(CODE_SECONDS)  # whoever asked may be gone
    spec, answer = sys.argv[1:]
    files = [str(file) for file in function_files(spec)]
    Path(answer).write_text(json.dumps(files), encoding="utf-8")


def module_file(spec: str, folder: Path) -> tuple[Path, ...]:
    """The file in the folder that a module would be read from, if there is one."""
    place = folder.absolute().joinpath(*spec.partition(":")[0].split("."))
    tried = (place.with_name(f"{place.name}.py"), place / "__init__.py")
    return tuple(file for file in tried if file.is_file())[:1]
