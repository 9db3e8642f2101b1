"""A report for programs: every field of the dataclasses, described by ``report/schema.json``."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from qcompress.errors import UsageError
from qcompress.report.formats.options import RenderOptions
from qcompress.results import SCHEMA_VERSION, Report

DIGITS = 6
"""Significant digits of measured numbers: more would be noise."""

DERIVED = ("exit_code", "size_ratio")
"""Keys that follow from others and are written for convenience."""


def format_json(report: Report, options: RenderOptions) -> str:
    """The whole report as one object; the version comes first, mappings keep their order."""
    values = _plain(report)
    head = {
        "schema_version": values.pop("schema_version"),
        "exit_code": int(report.exit_code),
        "size_ratio": _plain(report.size.ratio),
    }
    return json.dumps({**head, **values}, indent=2, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> Report:
    """Read a report back.

    Raises:
        UsageError: not a report, or of another schema version.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the report is not JSON: {error}", "write one with --report report.json") from error
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        found = values.get("schema_version") if isinstance(values, dict) else None
        raise UsageError(f"the report has schema version {found}, not {SCHEMA_VERSION}", "write it again with this version")
    try:
        report: Report = _typed({key: value for key, value in values.items() if key not in DERIVED}, Report)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"the report is malformed: {error}", "see the published schema") from error
    return report


def _plain(value: Any) -> Any:
    """Dataclasses as objects, tuples as lists, floats rounded; what is not a number becomes null."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _typed(value: Any, kind: Any) -> Any:
    """A value read from JSON as the type a field declares."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _typed(value, next(item for item in get_args(kind) if item is not type(None)))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{key: _typed(item, hints[key]) for key, item in value.items()})  # type: ignore[operator]
    if origin is tuple:
        return tuple(_typed(item, get_args(kind)[0]) for item in value)
    if origin is Mapping:
        return {key: _typed(item, get_args(kind)[1]) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value
