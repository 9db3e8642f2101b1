"""What lies in a registry's folder is in its table, and every module says in one line what it is for."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from qcompress.calibrate import RANGE_METHODS
from qcompress.data.sources import SOURCES
from qcompress.gradient import RULES as GRADIENTS
from qcompress.graph.passes import PREPARATION, UNPACKING
from qcompress.plan.repairs import REPAIRS
from qcompress.prune import CRITERIA, PATTERNS
from qcompress.recipe import RECIPES, RangeMethod
from qcompress.report.formats import FORMATS
from qcompress.rewrite.forms import FORMS
from qcompress.structure import RULES, SHAPE_RULES
from qcompress.types import Criterion, Form
from qcompress.zoo.engines import ENGINES
from qcompress.zoo.formats import SUMMARY_FORMATS

PACKAGE = Path(__file__).resolve().parent.parent / "qcompress"

REGISTRIES = {
    "rewrite/forms": (list(FORMS.values()), {"parts"}),
    "calibrate/ranges": (list(RANGE_METHODS.values()), {"record"}),
    "graph/passes": ([*UNPACKING.values(), *PREPARATION.values()], set()),
    "data/sources": ([kind.open for kind in SOURCES.values()], set()),
    "plan/repairs": (list(REPAIRS.values()), {"proposal"}),
    "prune/criteria": ([entry.score for entry in CRITERIA.values()], set()),
    "prune/patterns": (list(PATTERNS.values()), {"channels", "ranking"}),
    "gradient/rules": (list(GRADIENTS.values()), {"windows"}),
    "report/formats": (list(FORMATS.values()), {"options"}),
    "structure/rules": ([*RULES.values(), *SHAPE_RULES.values()], {"common"}),
    "zoo/engines": (list(ENGINES.values()), {"interface"}),
    "zoo/formats": (list(SUMMARY_FORMATS.values()), {"rows"}),
}
"""Folder -> what its table lists, and the modules that are tools of the others."""


@pytest.mark.parametrize("folder", REGISTRIES)
def test_every_file_of_a_registry_is_in_its_table(folder):
    listed, tools = REGISTRIES[folder]
    package = f"qcompress.{folder.replace('/', '.')}"
    files = {path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__"}
    modules = {function.__module__ for function in listed}
    assert modules == {f"{package}.{name}" for name in files - tools}
    assert tools <= files


@pytest.mark.parametrize("folder", REGISTRIES)
def test_entries_say_what_they_do(folder):
    for entry in REGISTRIES[folder][0]:
        assert (entry.__doc__ or "").strip(), f"{entry.__module__}.{entry.__name__} has no docstring"


def test_enumerations_and_tables_agree():
    assert set(FORMS) == set(Form)
    assert set(RANGE_METHODS) == set(RangeMethod)
    assert set(CRITERIA) == set(Criterion)
    assert all(recipe.name == name for name, recipe in RECIPES.items())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_in_one_sentence_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].strip().endswith((".", ":"))


def test_every_module_can_be_imported_alone():
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.py"))]
    for name in names:
        if not name.endswith("__main__"):
            assert isinstance(importlib.import_module(name.removesuffix(".__init__")), ModuleType)
