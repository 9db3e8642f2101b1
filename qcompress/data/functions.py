"""Functions of the user's, named on the command line as ``module:function``."""

from __future__ import annotations

import importlib
import re
import sys
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
