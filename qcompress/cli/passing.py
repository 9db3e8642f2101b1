"""Options of compress that another command takes and passes on: the same objects, so that none is forgotten."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qcompress.cli.compress import compress
from qcompress.cli.options import Command
from qcompress.cli.parameters import ImageSize
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.zoo.discovery import Entry
    from qcompress.zoo.manifest import Vocabulary

LEFT_OUT = ("output", "report", "format", "junit", "depfile", "quiet", "verbose", "supervised", "help")
"""Options of compress that a batch sets itself, or has for all models together."""

ONE_MODEL = ("plan", "pick", "cost_file", "baseline")
"""Options that make sense for one model alone, so that only a manifest can have them."""

_KINDS_OF_DATA = ("data", "eval_data")


def passed_on(one_model: bool = False) -> list[click.Option]:
    """The options, in the order of compress; with ``one_model`` those for one model alone too."""
    left_out = LEFT_OUT if one_model else (*LEFT_OUT, *ONE_MODEL)
    return [param for param in compress.params if isinstance(param, click.Option) and param.name not in left_out]


def given_options(function: Command) -> Command:
    """Hand those of ``passed_on`` that were given, on the command line or in the environment, over as the table ``given``."""

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        context = click.get_current_context()
        given: dict[str, Any] = {}
        for option in passed_on():
            name = str(option.name)
            value = values.pop(name)
            if context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
                given[_key(option)] = _plain(option, value)
        return function(*args, given=given, **values)

    return call


def vocabulary() -> Vocabulary:
    """All options a model of a manifest can have."""
    from qcompress.cli.limits import GateChoice
    from qcompress.zoo.manifest import OptionKind, Vocabulary

    kinds = {}
    for option in passed_on(one_model=True):
        if option.name not in _KINDS_OF_DATA:
            off = option.secondary_opts[0] if option.secondary_opts else ""
            kinds[_key(option)] = OptionKind(_flag(option), off, bool(option.is_flag), option.multiple)
    return Vocabulary(kinds, tuple(GateChoice.__dataclass_fields__))


def check_options(entries: Iterable[Entry]) -> None:
    """Parse every model's options as compress will, so that a mistake is told before the work.

    Raises:
        UsageError: an option has a value that compress does not take.
        RecipeError: there is no such recipe.
    """
    from qcompress.recipe import load_recipe
    from qcompress.zoo.jobs import words_of

    seen = set()
    for entry in entries:
        words = tuple(words_of(entry.options))
        if words in seen:
            continue
        seen.add(words)
        try:
            compress.make_context("compress", [entry.model, "--output=model.onnx", *words])
        except click.UsageError as error:
            raise UsageError(f"{entry.name}: {error.format_message()}", "see qcompress compress --help") from error
        if "--min-speedup" in entry.options and "--no-latency" in entry.options:
            raise UsageError(
                f"{entry.name}: a speed-up that is not measured cannot be checked",
                "leave --no-latency or --min-speedup away",
            )
        for recipe in entry.options.get("--recipe", ()):
            load_recipe(recipe)


def _flag(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--"))


def _key(option: click.Option) -> str:
    return _flag(option).removeprefix("--").replace("-", "_")


def _plain(option: click.Option, value: Any) -> Any:
    """A parsed value as a manifest would have it."""
    if option.multiple:
        return [str(item) for item in value]
    if isinstance(option.type, ImageSize):
        return "x".join(str(item) for item in value)
    if isinstance(value, tuple):
        return [float(item) for item in value]
    if isinstance(value, Enum | Path):
        return str(value)
    return value
