"""What a result was made from, in the words of Make: ``--depfile``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qcompress.cli.paths import input_files, write_text
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.zoo.inputs import Inputs
    from qcompress.zoo.jobs import Job

_ESCAPED = re.compile(r"[ #:*?\[\]]")
_SILENT = re.compile(r"[;|\t\n\r]|\\(?=[\\ #:*?%\[\]]|$)|\)$")
"""What no version of Make can have in a file name: separators, a backslash before what it would escape, the end of an archive."""

_EQUALS = "qcompress.equals"
"""The variable that stands for ``=``, which otherwise makes an assignment of the line."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a run reads.

    ``models``: with their external data. ``data``: sources, of folders every file. ``functions``: ``module:function``.
    ``files``: anything else.
    """

    models: tuple[Path, ...] = ()
    data: tuple[str | None, ...] = ()
    functions: tuple[str | None, ...] = ()
    files: tuple[Path | None, ...] = ()

    def paths(self) -> list[Path]:
        """Every file, and the folders of data, whose time changes when a file is added or taken away; sorted.

        Raises:
            ModelError: a model cannot be read.
            DataError: there is no such data.
        """
        from qcompress.data import data_files
        from qcompress.data.functions import function_files

        found = set(input_files(*self.models))
        found |= {file for file in self.files if file is not None}
        for source in filter(None, self.data):
            files = data_files(source)
            found |= {*files, *([file.parent for file in files] if Path(source).is_dir() else [])}
            found |= {Path(source)} if Path(source).is_dir() else set()
        for function in filter(None, self.functions):
            found |= set(function_files(function))
        return sorted({_short(path) for path in found})


@dataclass(frozen=True, slots=True)
class ReadByBatch:
    """What a batch reads: its manifest, else the folders of its models, whose time changes when there is a new one; and what
    each of its models needs. What cannot be read is left out, and so is what lies at a URL.
    """

    source: Path | str
    jobs: Sequence[Job]
    inputs: Inputs

    def paths(self) -> list[Path]:
        """Every file and folder, sorted."""
        home = Path(self.source)
        found = {home} if home.is_file() else {folder for job in self.jobs for folder in _folders(home.absolute(), job)}
        for job in self.jobs:
            found |= {file.absolute() for file in self.inputs.of(job) if file.is_file()}
            for source in (job.data, job.eval_data, *job.options.get("--timing-data", ())):
                if source and Path(source).is_dir():
                    folders = {file.parent for file in self.inputs.data(source, job.folder)}
                    found |= {Path(source).absolute(), *folders}
        return sorted({_short(path) for path in found})


def _folders(home: Path, job: Job) -> list[Path]:
    """From the model's up to the source; none at a URL."""
    return [folder for folder in Path(job.model).absolute().parents if folder.is_relative_to(home) and folder.is_dir()]


@dataclass(frozen=True, slots=True)
class Depfile:
    """The file ``path`` with the rule that ``targets`` depend on what is ``read``.

    Raises:
        UsageError: no target is a file, or a name is one that Make cannot have; before the long work starts.
    """

    path: Path
    targets: Sequence[Path]
    read: Read | ReadByBatch

    def __post_init__(self) -> None:
        if self.targets[0] == self.path:
            raise UsageError("--depfile without a result that is a file", "give -o a file name")
        self._text()

    def write(self) -> None:
        """Write the rule; now it is known which Python files a function of the user's has loaded.

        Raises:
            OutputError: the file cannot be written.
        """
        write_text(self.path, self._text())

    def _text(self) -> str:
        """The rule, without the folders that a result is written to: that changes their time."""
        written = {target.absolute().parent for target in self.targets}
        sources = [item for item in self.read.paths() if not (item.is_dir() and item.absolute() in written)]
        return rule([_short(target) for target in self.targets if target != self.path], sources)


def rule(targets: Sequence[Path], sources: Sequence[Path]) -> str:
    """The text of a dependency file; every source also gets a rule that does nothing, for when it is deleted.

    Raises:
        UsageError: a name that Make cannot have.
    """
    lines = [" \\\n  ".join([f"{' '.join(_name(target, True) for target in targets)}:", *(_name(item) for item in sources)])]
    lines += [f"{_name(item, True)}:" for item in sources]
    text = "\n\n".join(lines)
    return f"{_EQUALS} := =\n\n{text}" if f"$({_EQUALS})" in text else text


def _name(path: Path, target: bool = False) -> str:
    """A file name as Make reads it; in targets the sign of patterns is escaped, too."""
    text = str(path)
    if _SILENT.search(text):
        raise UsageError(f"Make cannot have a file called {text!r}", "rename it, or leave --depfile away")
    text = _ESCAPED.sub(r"\\\g<0>", text.replace("$", "$$"))
    text = text.replace("=", f"$({_EQUALS})")
    if target:
        text = text.replace("%", "\\%")
    return f"./{text}" if text.startswith("~") else text


def _short(path: Path) -> Path:
    """The path from the working directory, where it lies below."""
    folder = Path(os.path.abspath(path))  # noqa: PTH100 - resolve would follow links, which Make does not
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
