"""What the user asks for, apart from the model and the data: named recipes, TOML files and overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

from qcompress.errors import RecipeError
from qcompress.results import Gates
from qcompress.types import (
    CHANNELS,
    UNSTRUCTURED,
    Criterion,
    FloatScheme,
    Pattern,
    PerTensor,
    QuantScheme,
    Rounding,
    Scheme,
    Spread,
    parse_scheme,
)


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
class Pruning:
    """What is pruned before anything else; the keys of a recipe's table ``[prune]``."""

    amount: float | None = None
    """Share of all weights that become zero, or of the multiply-adds that are cut out with channels."""
    threshold: float | None = None
    """Weights that score less are pruned, however many they are; instead of ``amount``."""
    pattern: Pattern = UNSTRUCTURED
    criterion: Criterion | None = None
    """Which weights count least; None: the best that the data allows."""
    spread: Spread | None = None
    """How the amount is spread over layers; None: by measured loss where there is data."""
    compensate: bool = True
    """Solve the weights that stay again, so that every layer's outputs change least."""

    def __post_init__(self) -> None:
        if self.amount is not None and not 0.0 < self.amount < 1.0:
            raise RecipeError(
                f"the share {self.amount:g} cannot be pruned", "write a share between 0 and 1, for example 0.5"
            )
        if self.threshold is not None and not 0.0 < self.threshold < float("inf"):
            raise RecipeError(
                f"weights cannot score less than {self.threshold:g}", "write a threshold above 0, for example 0.01"
            )
        if self.amount is not None and self.threshold is not None:
            raise RecipeError("a share to prune and a threshold exclude each other", "leave one of the two away")
        if self.pattern.is_fixed and (self.amount is not None or self.threshold is not None):
            raise RecipeError(f"the pattern {self.pattern} says itself how many are pruned", "leave the share away")
        if self.pattern.channels and self.threshold is not None:
            raise RecipeError(
                "channels are pruned by a share of the multiply-adds, not by a threshold", "write for example 0.3"
            )

        if self.pattern != UNSTRUCTURED and not self.is_wanted:
            raise RecipeError(f"the pattern {self.pattern} does not say how much is pruned", "give a share, for example 0.3")

    @property
    def is_wanted(self) -> bool:
        """Whether anything is pruned."""
        return self.amount is not None or self.threshold is not None or self.pattern.is_fixed


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to compress; every field can be set in a TOML file or by an option."""

    name: str = "int8"
    mode: Mode = Mode.AUTO
    objective: Objective = Objective.LATENCY
    """What mode auto makes as small as the budget of loss allows."""
    weights: Scheme = field(default_factory=lambda: QuantScheme.parse("int8/channel"))
    layers: tuple[tuple[str, Scheme], ...] = ()
    """Layer name, glob or operator type -> scheme that its weights have instead of ``weights``; the last that fits counts."""
    bits: float | None = None
    """Average width of the codes of all that is not in ``layers``, each chosen by measured loss; None: as ``weights`` says."""
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
    pruning: Pruning = field(default_factory=Pruning)
    """What is pruned before; nothing by default."""
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        if self.bits is not None and not 2 <= self.bits <= 8:
            raise RecipeError(f"weights have 2 to 8 bits on average, not {self.bits:g}", "write for example 4.5")
        if self.bits is not None and not isinstance(self.weights, QuantScheme):
            raise RecipeError(f"widths are chosen for integer codes, not for {self.weights}", "leave one of the two away")
        for pattern, own in self.layers:
            if own == FloatScheme("float32"):
                raise RecipeError(f"{pattern} cannot be {own}: that saves nothing", "keep it as it is with exclude")
        if self.weights == FloatScheme("float32") and not self.pruning.is_wanted:
            raise RecipeError("float32 weights save nothing unless they are pruned", "write for example --prune 0.5")
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
    "prune": Recipe("prune", Mode.WEIGHTS, weights=parse_scheme("float32"), budget=0.05, pruning=Pruning(amount=0.5)),
    "prune-int8": Recipe("prune-int8", budget=0.05, pruning=Pruning(amount=0.5)),
    "prune-int4": Recipe("prune-int4", bits=4.0, budget=0.1, pruning=Pruning(amount=0.5)),
    "channels-int8": Recipe("channels-int8", budget=0.05, pruning=Pruning(amount=0.2, pattern=CHANNELS)),
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
    if path.suffix != ".toml" and not _exists(path):
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


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a file, or with signs that no name can have
        return False


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
    changes: dict[str, Any] = {"name": Path(where).stem, "pruning": _pruning(base.pruning, values.pop("prune", {}), where)}
    known = [item.name for item in fields(Recipe) if item.name not in ("gates", "pruning")]
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


def _pruning(base: Pruning, table: Any, where: str) -> Pruning:
    """The table ``[prune]`` on top of what the base recipe prunes; a share, a threshold and a fixed pattern replace each other."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: [prune] must be a table", "for example [prune] then amount = 0.5")
    known = [item.name for item in fields(Pruning)]
    changes = {_known(key, known, where): _pruning_value(key, value, where) for key, value in table.items()}
    return merged(base, changes)


def merged(base: Pruning, changes: Mapping[str, Any]) -> Pruning:
    """``base`` with changes; how much is pruned is said in one way, the changes' way if they say it.

    Raises:
        RecipeError: the changes say it in two ways.
    """
    pattern = changes.get("pattern")
    cleared: dict[str, Any] = {}
    if "amount" in changes or "threshold" in changes or (isinstance(pattern, Pattern) and pattern.is_fixed):
        cleared = {"amount": None, "threshold": None}
        if base.pattern.is_fixed:
            cleared["pattern"] = UNSTRUCTURED
    return replace(base, **{**cleared, **changes})


def _pruning_value(key: str, value: Any, where: str) -> Any:
    """Turn a TOML value into the type of the field ``key`` of ``Pruning``."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "pattern": lambda text: Pattern.parse(_expect(text, str)),
        "criterion": lambda text: Criterion(_expect(text, str)),
        "spread": lambda text: Spread(_expect(text, str)),
        "compensate": lambda flag: _expect(flag, bool),
    }
    return _converted(f"prune.{key}", value, where, kinds.get(key, _number))


def _converted(key: str, value: Any, where: str, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {key} cannot be {value!r}", str(error)) from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {key}: {error.message}", error.hint) from error


def _known(key: str, names: list[str], where: str) -> str:
    if key in names:
        return key
    near = get_close_matches(key, names, 1)
    raise RecipeError(f"{where}: unknown key {key!r}", f"did you mean {near[0]}?" if near else f"keys: {', '.join(names)}")


def _field_value(key: str, value: Any, where: str) -> Any:
    """Turn a TOML value into the type of the recipe's field ``key``."""
    kinds: dict[str, Callable[[Any], Any]] = {
        "weights": lambda text: parse_scheme(_expect(text, str)),
        "activations": lambda text: QuantScheme.parse(_expect(text, str)),
        "rounding": lambda text: Rounding(_expect(text, str)),
        "bits": _number,
        "budget": _number,
        "portable": lambda number: _expect(number, int),
        "mode": lambda text: Mode(_expect(text, str)),
        "objective": lambda text: Objective(_expect(text, str)),
        "ranges": lambda text: RangeMethod(_expect(text, str)),
        "layers": _schemes,
        **dict.fromkeys(("include", "exclude", "outputs"), _texts),
        "name": lambda text: _expect(text, str),
    }
    return _converted(key, value, where, kinds.get(key, lambda flag: _expect(flag, bool)))


def _schemes(value: Any) -> tuple[tuple[str, Scheme], ...]:
    return tuple((pattern, parse_scheme(_expect(text, str))) for pattern, text in _expect(value, Mapping).items())


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_expect(item, str) for item in _expect(value, list))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("expected a number")
    return float(value)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value
