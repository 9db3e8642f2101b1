"""Which form each layer takes, by what the recipe prefers and the layer allows; no data is needed to decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np

from qcompress.decisions import Keep
from qcompress.errors import RecipeError
from qcompress.graph import Model, Node
from qcompress.graph.edit import int_attribute, is_constant
from qcompress.operators import OPERATORS, Layer, why_not_stored
from qcompress.operators.support import CHANNEL_SCALES, wanted_opset
from qcompress.plan.placement import Shapes
from qcompress.recipe import Mode, Recipe
from qcompress.types import Form, QuantScheme, Scheme

FEW_ROWS = 32
"""Up to this many rows a product reads its weight for longer than it multiplies, and smaller codes are faster."""

LEAST_SHARE = 1e-4
"""A stored weight below this share of all bytes is kept: nothing to save, and such tables (two token types) are touchy."""

STEM_CHANNELS = 4
"""A convolution of so few input channels is slower in integers (measured 0.47x on 3 channels)."""


@dataclass(frozen=True, slots=True)
class Preference:
    """What layers should become: ``convolution`` for Conv, ``product`` for MatMul and Gemm; others are stored compressed."""

    title: str
    convolution: Form
    product: Form


STATIC = Preference("static ranges", Form.STATIC, Form.STATIC)
MIXED = Preference("static convolutions, dynamic products", Form.STATIC, Form.DYNAMIC)
DYNAMIC = Preference("dynamic products", Form.FOLDED, Form.DYNAMIC)
WEIGHTS = Preference("stored weights, float arithmetic", Form.FOLDED, Form.WEIGHT_ONLY)

PREFERENCES: dict[Mode, tuple[Preference, ...]] = {
    Mode.AUTO: (STATIC, MIXED, DYNAMIC, WEIGHTS),
    Mode.STATIC: (STATIC,),
    Mode.DYNAMIC: (DYNAMIC,),
    Mode.WEIGHTS: (WEIGHTS,),
}
"""Mode -> preferences, tried in order until the outputs are close enough; the last is taken in any case."""


def choose_forms(layers: Sequence[Layer], preference: Preference, recipe: Recipe, shapes: Shapes) -> dict[str, Form | Keep]:
    """A form, or the reason to keep it, for every weight by name."""
    selected = selection(layers, recipe)
    least = sum(layer.bytes for layer in layers) * LEAST_SHARE
    chosen: dict[str, Form | Keep] = {}
    for layer in layers:
        if layer.reason:
            chosen[layer.name] = Keep(layer.reason)
        elif layer.name not in selected:
            chosen[layer.name] = Keep("left out by the recipe's include and exclude")
        else:
            form = _form(layer, preference, recipe, shapes)
            trifle = layer.bytes < least and form not in (Form.STATIC, Form.DYNAMIC)
            chosen[layer.name] = Keep("would save less than 0.01 % of the weights") if trifle else form
    return chosen


def static_nodes(model: Model, layers: Iterable[Layer], chosen: Mapping[str, Form | Keep], mode: Mode) -> list[Node]:
    """The nodes that shall compute on calibrated integers; in mode static also products of two activations."""
    wanted = {use.node for layer in layers if chosen[layer.name] is Form.STATIC for use in layer.uses}
    if mode is Mode.STATIC:
        for node in model.graph:
            if node.op_type == "MatMul" and not node.domain and not any(is_constant(value) for value in node.inputs):
                wanted.add(node)
    return [node for node in model.graph if node in wanted]


def scheme_of(layer: Layer, recipe: Recipe) -> Scheme:
    """The scheme that the recipe gives a layer's weight."""
    return _listed(_words(layer), recipe) or recipe.weights


def is_listed(layer: Layer, recipe: Recipe) -> bool:
    """Whether the recipe gives this very layer a scheme, so that nothing else is to be chosen."""
    return _listed(_words(layer), recipe) is not None


def _listed(words: tuple[str, ...], recipe: Recipe) -> Scheme | None:
    """The last scheme that the recipe has for something called so."""
    return next((scheme for pattern, scheme in reversed(recipe.layers) if _matches(words, (pattern,))), None)


def stored_form(layer: Layer, recipe: Recipe, shapes: Shapes) -> Form:
    """The form of a layer that stays in float arithmetic."""
    scheme = scheme_of(layer, recipe)
    if _suits(Form.GATHERED, layer, scheme):
        return Form.GATHERED
    return Form.WEIGHT_ONLY if _suits(Form.WEIGHT_ONLY, layer, scheme) and _few_rows(layer, shapes) else Form.FOLDED


def worthwhile_opset(model: Model, recipe: Recipe) -> int:
    """The operator set that the recipe's codes have their fastest kernels in, if products with them are half of the weights.

    Newer operator sets than 13 bring nothing to convolutions, and runtimes that are a few years old do not know them.
    """
    total = 0
    products: dict[int, int] = {}
    codes = recipe.weights if recipe.bits is None else QuantScheme(bits=round(recipe.bits))
    for value in model.graph.initializers.values():
        size = 0 if value.const_value is None else value.const_value.nbytes
        users = [use.node for use in value.uses()]
        readers = {
            reader.op_type for node in users for reader in (_readers(node) if node.op_type == "Transpose" else [node])
        }
        total += 0 if readers == {"Gather"} else size  # tables are looked up as well in any operator set
        if readers & {"MatMul", "Gemm"}:
            words = (value.name or "", *(text for node in users for text in (node.name or "", node.op_type)))
            wanted = wanted_opset(_listed(words, recipe) or codes)
            products[wanted] = products.get(wanted, 0) + size
    return next((opset for opset, size in sorted(products.items(), reverse=True) if size >= total / 2), CHANNEL_SCALES)


def _readers(node: Node) -> list[Node]:
    return [use.node for output in node.outputs for use in output.uses()]


def _form(layer: Layer, preference: Preference, recipe: Recipe, shapes: Shapes) -> Form:
    wanted = preference.convolution if layer.operator.op_type == "Conv" else preference.product
    integer = wanted in (Form.STATIC, Form.DYNAMIC)
    return (
        wanted
        if integer and _suits(wanted, layer, scheme_of(layer, recipe)) and not is_stem(layer)
        else stored_form(layer, recipe, shapes)
    )


def _suits(form: Form, layer: Layer, scheme: Scheme) -> bool:
    """Whether the layer can take the form with this scheme."""
    return not why_not_stored(layer, form, scheme)


def is_stem(layer: Layer) -> bool:
    """Whether the layer is a convolution over the few channels of an image."""
    return (
        layer.operator.op_type == "Conv" and layer.shape[1] <= STEM_CHANNELS and int_attribute(layer.node, "group", 1) == 1
    )


def _few_rows(layer: Layer, shapes: Shapes) -> bool:
    """Whether products with this weight have few rows at the calibration shapes; unknown counts as many."""
    for use in layer.uses:
        if use.node.op_type not in ("MatMul", "Gemm"):
            continue
        source = use.node.inputs[0]
        shape = shapes.get(source.name or "") if source is not None else None
        if shape is None or int(np.prod(shape[:-1], dtype=np.int64)) > FEW_ROWS:
            return False
    return True


def selection(layers: Sequence[Layer], recipe: Recipe) -> set[str]:
    """Names of the weights that include and exclude leave in.

    Raises:
        RecipeError: a word matches no layer, weight or operator type; names the nearest.
    """
    names = {layer.name: _words(layer) for layer in layers}
    known = sorted({word for words in names.values() for word in words})
    for pattern in (*recipe.include, *recipe.exclude, *(pattern for pattern, _ in recipe.layers)):
        if pattern not in OPERATORS and not any(fnmatchcase(word, pattern) for word in known):
            near = get_close_matches(pattern, known, 1, 0.0)
            raise RecipeError(
                f"no layer is called {pattern!r}", f"did you mean {near[0]!r}?" if near else "the model has no layers"
            )

    inside = {name for name, words in names.items() if not recipe.include or _matches(words, recipe.include)}
    return {name for name in inside if not _matches(names[name], recipe.exclude)}


def _matches(words: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(word, pattern) for word in words for pattern in patterns)


def _words(layer: Layer) -> tuple[str, ...]:
    """What a layer may be called: its weight, its nodes and their operator types."""
    nodes = [use.node for use in layer.uses]
    return (layer.name, *(node.name or "" for node in nodes), *(node.op_type for node in nodes))
