"""What the user asks for, apart from the model and the data: named recipes, TOML files and overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from qcompress.errors import RecipeError
from qcompress.results import Gates
from qcompress.types import PerTensor, QuantScheme, Rounding, Scheme, parse_scheme


class Mode(StrEnum):
    """How much of a layer becomes integer arithmetic."""

    AUTO = "auto"
    """Integer arithmetic where it pays and keeps the outputs; stored weights only elsewhere."""
    STATIC = "static"
    """Weights and activations quantized, ranges from calibration."""
    DYNAMIC = "dynamic"
    """Matrix products in integers, ranges computed at run time; other weights stored compressed."""
    WEIGHTS = "weights"
    """Weights stored compressed, arithmetic in float."""


class Objective(StrEnum):
    """What is made as small as it can be."""

    LATENCY = "latency"
    SIZE = "size"
    LOSS = "loss"
    """As little loss as limits on time and size allow, not as much as the budget does."""


class RangeMethod(StrEnum):
    """How an activation's range is chosen from what calibration saw."""

    MINMAX = "minmax"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to compress; every field can be set in a TOML file or by an option."""

    name: str = "int8"
    mode: Mode = Mode.AUTO
    objective: Objective = Objective.LATENCY
    """What mode auto makes as small as the budget of loss allows."""
    weights: Scheme = field(default_factory=lambda: QuantScheme.parse("int8/channel"))
    bits: float | None = None
    """Average width of the codes: the width of every layer is chosen by measured loss; None: all as ``weights`` says."""
    rounding: Rounding | None = None
    """How codes are chosen; None: by width, and by what data there is."""
    sequential: bool = True
    """Layers are fitted on what the compressed layers before them give, not on the float model's tensors."""
    budget: float = 0.01
    """Loss of agreement with the float model that is allowed when no limit on accuracy is asked for; 0.01: cosine 0.99."""
    activations: QuantScheme = field(default_factory=lambda: QuantScheme.parse("uint8/asym"))
    ranges: RangeMethod = RangeMethod.MSE
    clip_weights: bool = True
    """Search each channel's clip by the error weighted with the inputs' second moment."""
    correct_bias: bool = True
    """Shift biases by the mean error that rounding the weights causes, adding a bias where there is none."""
    include: tuple[str, ...] = ()
    """Layer names, globs or operator types to compress; empty means all."""
    exclude: tuple[str, ...] = ()
    """Layer names, globs or operator types to keep as they are."""
    portable: int | None = None
    """Operator set that the result may use at most, for runtimes that know no newer one; None: what its kernels need."""
    outputs: tuple[str, ...] = ()
    """Outputs of the model that must stay close to the float model's; empty means all."""
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise RecipeError(f"weights have 2 to 8 bits on average, not {self.bits:g}", "write for example 4.5")
        if self.bits is not None and not isinstance(self.weights, QuantScheme):
            raise RecipeError(f"widths are chosen for integer codes, not for {self.weights}", "leave one of the two away")
        scheme = self.activations
        if not isinstance(scheme.granularity, PerTensor):
            raise RecipeError(
                f"activations cannot be {scheme}: they have one scale a tensor", "write for example uint8/asym"
            )
        if scheme.bits not in (8, 16):
            raise RecipeError(
                f"activations cannot be {scheme}: runtimes quantize to 8 or 16 bits", "write for example uint8/asym"
            )


RECIPES: dict[str, Recipe] = {
    "int8": Recipe("int8"),
    "int8-static": Recipe("int8-static", mode=Mode.STATIC),
    "int8-dynamic": Recipe("int8-dynamic", mode=Mode.DYNAMIC),
    "int8-weights": Recipe("int8-weights", mode=Mode.WEIGHTS),
    "int4": Recipe("int4", bits=4.0, budget=0.05),
    "int4-weights": Recipe("int4-weights", mode=Mode.WEIGHTS, weights=QuantScheme.parse("int4/block32"), budget=0.05),
    "float16": Recipe("float16", mode=Mode.WEIGHTS, weights=parse_scheme("float16")),
}
"""The recipes that come with qcompress, by name."""


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by its name, or read from a TOML file (which may start from a named one with ``base = "int8"``).

    Raises:
        RecipeError: no such recipe, no such file, or an unknown key or value in it.
    """
    if name_or_path in RECIPES:
        return RECIPES[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.exists():
        near = get_close_matches(name_or_path, RECIPES, 1)
        hint = f"did you mean {near[0]}?" if near else f"recipes: {', '.join(RECIPES)}, or a .toml file"
        raise RecipeError(f"there is no recipe {name_or_path!r}", hint)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not TOML: {error}", "see the README for an example") from error
    return recipe_from_table(table, str(path))


def recipe_from_table(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from parsed TOML; an unknown key is an error that names its nearest match.

    Raises:
        RecipeError: an unknown key, or a value of the wrong kind.
    """
    values = dict(table)
    base = RECIPES.get(str(values.pop("base", "int8")))
    if base is None:
        raise RecipeError(f"{where}: unknown base recipe {table['base']!r}", f"recipes: {', '.join(RECIPES)}")
    gates = values.pop("gates", {})
    if not isinstance(gates, Mapping):
        raise RecipeError(f"{where}: [gates] must be a table", "for example [gates] then max_size_ratio = 0.35")
    changes: dict[str, Any] = {"name": Path(where).stem}
    known = [item.name for item in fields(Recipe) if item.name != "gates"]
    for key, value in values.items():
        name = _known(key, known, where)
        changes[name] = _field_value(name, value, where)
    limits: dict[str, float] = {}
    for key, value in gates.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecipeError(f"{where}: gates.{key} must be a number, not {value!r}", "for example max_size_ratio = 0.35")
        limits[_known(key, [item.name for item in fields(Gates)], where)] = float(value)
    recipe = replace(base, **changes)
    return replace(recipe, gates=replace(recipe.gates, **limits))


def _known(key: str, names: list[str], where: str) -> str:
    if key in names:
        return key
    near = get_close_matches(key, names, 1)
    raise RecipeError(f"{where}: unknown key {key!r}", f"did you mean {near[0]}?" if near else f"keys: {', '.join(names)}")


def _field_value(key: str, value: Any, where: str) -> Any:
    """Turn a TOML value into the type of the recipe's field ``key``."""
    try:
        if key == "weights":
            return parse_scheme(_expect(value, str))
        if key == "activations":
            return QuantScheme.parse(_expect(value, str))
        if key == "rounding":
            return Rounding(_expect(value, str))
        if key in ("bits", "budget"):
            return _number(value)
        if key == "portable":
            return _expect(value, int)
        if key == "mode":
            return Mode(_expect(value, str))
        if key == "objective":
            return Objective(_expect(value, str))
        if key == "ranges":
            return RangeMethod(_expect(value, str))
        if key in ("include", "exclude", "outputs"):
            return tuple(_expect(item, str) for item in _expect(value, list))
        return _expect(value, str if key == "name" else bool)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {key} cannot be {value!r}", str(error)) from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {key}: {error.message}", error.hint) from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("expected a number")
    return float(value)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value
