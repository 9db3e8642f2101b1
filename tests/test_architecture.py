"""The floors of the house: a room imports only what lies below it, and heavy libraries have one door each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "qcompress"

FLOORS = (
    {"cli"},
    {"zoo"},
    {"pipeline"},
    {"planning"},
    {"report", "rewrite", "plan", "calibrate", "measure", "gradient"},
    {"prune"},
    {"quantize"},
    {"operators", "data", "structure"},
    {"graph", "runtime", "recipe", "results", "decisions", "remote"},
    {"types", "progress", "errors"},
)
"""From the roof down. Rooms of one floor do not import each other, apart from the neighbours below."""

NEIGHBOURS = {("recipe", "results"), ("types", "errors")}
"""Within the two lowest floors, words may build on words."""

DOORS = {
    "onnx": {"graph"},
    "onnx_ir": {"graph"},
    "onnxruntime": {"runtime"},
    "click": {"cli"},
    "rich": {"cli", "report"},
    "PIL": {"data"},
    "distributed": {"zoo"},
    "ray": {"zoo"},
    "fsspec": {"remote"},
}
"""The only rooms that import a library."""

NUMPY_ONLY = {"quantize", "prune"}
"""Rooms of algorithms: numpy and the words of the ground floor, nothing else."""

FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The room a file belongs to: its folder in the package, or its own name; the package itself is ``qcompress``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "qcompress" if parts[0].startswith("__") else parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names of all modules the file imports, late imports included, those for type checkers alone left out."""
    found: set[str] = set()
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(inner) for inner in ast.walk(node)}
        elif id(node) in skipped:
            continue
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide which room is meant"
            found.add(node.module or "")
            if node.module == "qcompress":
                found |= {f"qcompress.{alias.name}" for alias in node.names}
    return found


def floor(name: str) -> int:
    """The height of a room, 0 at the bottom."""
    heights = [len(FLOORS) - index for index, rooms in enumerate(FLOORS) if name in rooms]
    assert heights, f"{name} has no floor; add it to FLOORS"
    return heights[0]


def rooms_used(path: Path) -> set[str]:
    """The rooms of our own that a file imports from."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("qcompress.")} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_lower_floors(path: Path) -> None:
    own = room(path)
    if own == "qcompress":  # __init__ names everything lazily, __main__ starts the command line
        return
    for used in rooms_used(path) - {own}:
        assert floor(used) < floor(own) or (own, used) in NEIGHBOURS, f"{own} must not import {used}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_imported_through_their_doors(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(path)}
    for library, doors in DOORS.items():
        assert library not in libraries or room(path) in doors, f"{library} is for {sorted(doors)} only"


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in NUMPY_ONLY], ids=lambda path: path.name)
def test_algorithms_know_nothing_but_numpy(path: Path) -> None:
    assert rooms_used(path) <= NUMPY_ONLY | {"types", "errors", "progress"}
    assert {name.split(".")[0] for name in imports(path)} & {"scipy", "torch", "onnx", "ml_dtypes", "click", "rich"} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc, "a module starts with one sentence on what it is for"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, "about 300 lines is the taste; split it"


def test_the_rule_sees_a_wrong_import(tmp_path: Path) -> None:
    """The rules above can fail: imports are found however they are written."""
    file = tmp_path / "wrong.py"
    file.write_text("from qcompress import cli\ndef f():\n    import onnxruntime.capi\n    from onnx import helper\n")
    assert imports(file) >= {"qcompress.cli", "onnxruntime.capi", "onnx"}
