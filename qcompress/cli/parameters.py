"""Kinds of option values: choices that are imported when they are needed, shares, number lists and image sizes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcompress.cli.guard import uninterrupted

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # older versions of click cannot be subscripted


class LazyChoice(ParamType):
    """A choice whose values live in a module that is too heavy to import for ``qcompress --help``."""

    name = "choice"

    def __init__(self, load: Callable[[], type[StrEnum]]) -> None:
        self._load = load

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The values, as the help of the command shows them."""
        return f"[{'|'.join(self._load())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The member of the enumeration, or a usage error that names the nearest one."""
        with uninterrupted():
            choices = self._load()
        try:
            return choices(str(value).lower())
        except ValueError:
            from difflib import get_close_matches

            near = get_close_matches(str(value), list(choices), 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            self.fail(f"{value!r} is not one of {', '.join(choices)}{meant}", param, ctx)


class Place(ParamType):
    """A path, or a URL."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """A path as such, a URL as it is written."""
        return value if isinstance(value, Path) or "://" in value else Path(value)


class LayerScheme(ParamType):
    """A layer and its scheme, written LAYER=SCHEME."""

    name = "LAYER=SCHEME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, when it has both."""
        layer, _, scheme = str(value).rpartition("=")
        if not layer or not scheme:
            self.fail(f"{value!r} is not a layer and a scheme; write for example 'head*=int8/channel'", param, ctx)
        return str(value)


class Share(ParamType):
    """A fraction, written 0.01 or 1%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The fraction; ``1%`` is 0.01."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{value!r} is not a number; write for example 1% or 0.01", param, ctx)
        if not 0 <= number < float("inf"):
            self.fail(f"{value!r} is not a share; write for example 1% or 0.01", param, ctx)
        return number


class Numbers(ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; write for example 0.485,0.456,0.406", param, ctx)


class ImageSize(ParamType):
    """Height and width in pixels, written 224 or 224x320."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(height, width)."""
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).lower().partition("x")
        if not height.isdecimal() or (width and not width.isdecimal()):
            self.fail(f"{value!r} is not an image size; write height x width, for example 224 or 224x320", param, ctx)
        return int(height), int(width or height)
