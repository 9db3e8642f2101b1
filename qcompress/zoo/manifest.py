"""``zoo.toml``: a list of models, each with its data and what is different about it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qcompress.data.functions import is_function
from qcompress.errors import RecipeError
from qcompress.recipe import RECIPES
from qcompress.remote import is_url
from qcompress.zoo.discovery import Entry

FILE_NAME = "zoo.toml"

OWN_KEYS = ("name", "model", "data", "eval_data", "gates", "timeout")
"""Keys of a model that are not options of compress, or are handled apart from them."""

PATHS = ("recipe", "plan", "cost_file", "baseline", "timing_data")
"""Options that name files; they are looked for beside the manifest."""

Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OptionKind:
    """How an option of compress is written: ``off`` turns a switch off, ``many`` can be given several times."""

    flag: str
    off: str = ""
    switch: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The options a model can have, by their key: the flag without dashes in front, ``_`` for ``-``; ``gates``: the limits."""

    kinds: Mapping[str, OptionKind]
    gates: tuple[str, ...]


def read_manifest(path: Path, vocabulary: Vocabulary, given: Table) -> list[Entry]:
    """The models of a manifest; a model's own table wins over ``given``, the command line, and that over ``[defaults]``.

    Raises:
        RecipeError: not TOML, an unknown key, a value of the wrong kind, a name used twice.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read manifest {path}: {error.strerror}", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"manifest {path} is not TOML: {error}", "qcompress batch --init DIR writes one") from error
    _refuse_unknown(table, ("defaults", "models"), str(path))
    models, defaults = table.get("models", []), table.get("defaults", {})
    if not isinstance(models, list) or not models or not all(isinstance(item, dict) for item in models):
        raise RecipeError(f"{path}: there are no models", "write one [[models]] table a model")
    if not isinstance(defaults, dict):
        raise RecipeError(f"{path}: [defaults] must be a table", "for example [defaults] then recipe = 'int8'")
    home = path.parent.absolute()
    common = {**resolved(_flat(defaults, vocabulary, f"{path}: [defaults]"), home), **given}
    entries = []
    for number, item in enumerate(models, 1):
        where = f"{path}: model {item.get('name', number)}"
        own = resolved(_flat(item, vocabulary, where), home)
        entries.append(make_entry({**common, **own}, vocabulary, where, home))
    _refuse_doubles(entries, path)
    return entries


def make_entry(table: Table, vocabulary: Vocabulary, where: str, home: Path) -> Entry:
    """A model from its merged table.

    Raises:
        RecipeError: there is no model in it, or a value of the wrong kind.
    """
    model = _text(table, "model", where)
    if model is None:
        raise RecipeError(f"{where} has no model", "write model = 'file.onnx'")
    called = model.rpartition("/")[2] if is_url(model) else model
    name = _text(table, "name", where) or str(Path(called).with_suffix(""))
    if Path(name).is_absolute() and Path(name).is_relative_to(home):
        name = str(Path(name).relative_to(home))
    if Path(name).is_absolute() or not Path(name).name or ".." in Path(name).parts:
        raise RecipeError(
            f"{where}: {name!r} is not a name of a place in the results", "write for example name = 'vision/a'"
        )
    options = {key: value for key, value in table.items() if key not in OWN_KEYS}
    return Entry(
        Path(name).as_posix(),
        model,
        _text(table, "data", where),
        _text(table, "eval_data", where),
        options_of(options, vocabulary, where),
        _seconds(table.get("timeout"), where),
    )


def options_of(table: Table, vocabulary: Vocabulary, where: str) -> dict[str, tuple[str, ...]]:
    """Keys and values as flags and words of the command line.

    Raises:
        RecipeError: a value of the wrong kind.
    """
    found: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        kind = vocabulary.kinds[key]
        if kind.switch:
            if not isinstance(value, bool):
                raise RecipeError(f"{where}: {key} cannot be {value!r}", "write true or false")
            flag = kind.flag if value else kind.off
            found |= {flag: ()} if flag else {}
        elif isinstance(value, list) and kind.many:
            found[kind.flag] = tuple(_word(item, key, where) for item in value)
        elif isinstance(value, list):
            found[kind.flag] = (",".join(_word(item, key, where) for item in value),)
        else:
            found[kind.flag] = (_word(value, key, where),)
    return {flag: values for flag, values in found.items() if values or not vocabulary.kinds.get(_key(flag), _NONE).many}


_NONE = OptionKind("")


def resolved(table: Table, home: Path) -> dict[str, Any]:
    """The table with all paths absolute, as seen from ``home``."""
    found = dict(table)
    for key in ("model", "data", "eval_data", *PATHS):
        if isinstance(found.get(key), str) and found[key]:
            found[key] = located(found[key], home)
    recipe = table.get("recipe")
    if isinstance(recipe, str) and not recipe.endswith(".toml") and not _is_file(found["recipe"]):
        found["recipe"] = recipe  # a name, or meant to be one
    return found


def _is_file(place: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(place).is_file()
    return False


def located(value: str, home: Path) -> str:
    """A path from ``home``; names of recipes, functions, addresses and ``random`` as they are."""
    place = home / value
    with suppress(OSError, ValueError):  # it may be too long for a path, or have signs that none can have
        if place.exists():
            return str(place)
    if value in RECIPES or value == "random" or is_url(value) or is_function(value):
        return value
    return str(place)


def manifest_text(entries: Sequence[Entry], home: Path, defaults: Table) -> str:
    """A manifest of the models found in a folder, to be edited; ``defaults``: options of all."""
    lines = [
        "# Models for `qcompress batch`. Paths are seen from this file. A key is an option of `qcompress compress` without the",
        "# dashes in front: max_accuracy_drop = 0.01; limits can stand in gates = { max_accuracy_drop = 0.01 }.",
        "",
        "[defaults]",
        *(f"{key} = {_toml(value)}" for key, value in defaults.items()),
    ]
    for entry in entries:
        lines += ["", "[[models]]", f"name = {_quoted(entry.name)}", f"model = {_quoted(_seen_from(home, entry.model))}"]
        for key, value in (("data", entry.data), ("eval_data", entry.eval_data)):
            if value is not None:
                lines.append(f"{key} = {_quoted(_seen_from(home, value))}")
    return "\n".join(lines) + "\n"


def _flat(table: Table, vocabulary: Vocabulary, where: str) -> dict[str, Any]:
    """The table with dashes in keys as underscores and its limits beside the other keys."""
    values = {key.replace("-", "_"): value for key, value in table.items()}
    _refuse_unknown(values, (*OWN_KEYS, *vocabulary.kinds), where)
    gates = values.pop("gates", {})
    if not isinstance(gates, dict):
        raise RecipeError(f"{where}: gates must be a table", "for example gates = { max_size_ratio = 0.35 }")
    limits = {key.replace("-", "_"): value for key, value in gates.items()}
    _refuse_unknown(limits, vocabulary.gates, f"{where}: gates")
    return {**values, **limits}


def _refuse_unknown(table: Table, known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys: {', '.join(known)}"
            raise RecipeError(f"{where}: unknown key {key!r}", hint)


def _refuse_doubles(entries: Sequence[Entry], path: Path) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise RecipeError(f"{path}: two models are called {entry.name!r}", "give each its own name")
        seen.add(entry.name)


def _text(table: Table, key: str, where: str) -> str | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise RecipeError(f"{where}: {key} cannot be {value!r}", f"write text, for example {key} = 'small'")
    return value


def _seconds(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise RecipeError(f"{where}: timeout cannot be {value!r}", "write seconds, for example timeout = 600")
    return float(value)


def _word(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "\0" in str(value):
        raise RecipeError(f"{where}: {key} cannot be {value!r}", "write it as on the command line")
    return str(value)


def _key(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _seen_from(home: Path, path: str) -> str:
    place = Path(path)
    return place.relative_to(home.absolute()).as_posix() if place.is_relative_to(home.absolute()) else path


def _toml(value: Any) -> str:
    """A plain value as TOML writes it, which for all but text is how JSON does."""
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
