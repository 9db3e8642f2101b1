"""qcompress: compress ONNX models with a report you can gate on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompress.data import DataOptions
    from qcompress.errors import QcompressError
    from qcompress.pipeline import (
        RunOptions,
        compare_models,
        compress,
        inspect_model,
        measure_sensitivity,
        plan_compression,
        plan_frontier,
    )
    from qcompress.recipe import RECIPES, Recipe
    from qcompress.results import Gates, Report

__version__ = "0.1.0"

__all__ = [
    "RECIPES",
    "DataOptions",
    "Gates",
    "QcompressError",
    "Recipe",
    "Report",
    "RunOptions",
    "__version__",
    "compare_models",
    "compress",
    "inspect_model",
    "measure_sensitivity",
    "plan_compression",
    "plan_frontier",
]

_HOMES = {
    "RECIPES": "qcompress.recipe",
    "DataOptions": "qcompress.data",
    "Gates": "qcompress.results",
    "QcompressError": "qcompress.errors",
    "Recipe": "qcompress.recipe",
    "Report": "qcompress.results",
    "RunOptions": "qcompress.pipeline",
    "compare_models": "qcompress.pipeline",
    "compress": "qcompress.pipeline",
    "inspect_model": "qcompress.pipeline",
    "measure_sensitivity": "qcompress.pipeline",
    "plan_compression": "qcompress.pipeline",
    "plan_frontier": "qcompress.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that ``qcompress --help`` loads no numerics."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
