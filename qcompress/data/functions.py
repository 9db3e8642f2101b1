"""Functions of the user's, named on the command line as ``module:function``."""

from __future__ import annotations

import importlib
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qcompress.errors import DataError, QcompressError

_SPEC = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def is_function(spec: str) -> bool:
    """Whether ``spec`` is written as ``module:function``."""
    return _SPEC.fullmatch(spec) is not None


def load_function(spec: str) -> Callable[..., Any]:
    """Import ``module:function``; modules in the working directory are found first.

    Raises:
        DataError: malformed, no such module or function, or the import fails.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DataError(f"{spec!r} does not name a Python function", "write module:function, for example loader:batches")
    with _working_directory_importable(), blame(f"importing {match['module']}"):
        try:
            found: Any = importlib.import_module(match["module"])
        except ModuleNotFoundError as error:
            if error.name is None or not f"{match['module']}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            raise DataError(
                f"there is no Python module {match['module']!r}", "run from the folder it is in, or install it"
            ) from error
    for part in match["name"].split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, [name for name in dir(found) if not name.startswith("_")], 1)
            raise DataError(f"{match['module']} has no {part!r}", f"did you mean {near[0]}?" if near else "check the name")
        found = getattr(found, part)
    if not callable(found):
        raise DataError(f"{spec} is not a function", "name a function without arguments that gives the data")
    return found  # type: ignore[no-any-return]


def function_files(spec: str) -> list[Path]:
    """The Python file that defines ``module:function``, the files of its package, and what else of the working directory
    is loaded; installed libraries stand for themselves.

    Raises:
        DataError: the function cannot be imported.
    """
    load_function(spec)
    name = spec.partition(":")[0]
    top, here = name.partition(".")[0], Path.cwd()
    files = {module: _python_file(loaded) for module, loaded in list(sys.modules.items()) if module != "__main__"}
    return sorted(
        {
            file
            for module, file in files.items()
            if file is not None
            and module.partition(".")[0] != "qcompress"
            and (module == name or (not _installed(file) and (module.startswith(f"{top}.") or file.is_relative_to(here))))
        }
    )


def _python_file(module: object) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or file.is_relative_to(sysconfig.get_path("stdlib"))


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn any failure of the user's code into one line that says whose it is."""
    try:
        yield
    except QcompressError:
        raise
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise DataError(
            f"{what} failed with {reason}", "the error is in your code: call it from Python to see where"
        ) from error


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
