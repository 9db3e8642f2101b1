"""Apply a plan to a prepared model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompress.decisions import CompressionPlan, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import Model
from qcompress.graph.edit import taken_names
from qcompress.graph.passes.halves import narrow_halves
from qcompress.graph.passes.names import shorten_names
from qcompress.graph.passes.unused import forget_made_up_names, remove_unused
from qcompress.operators import find_layers, why_not_stored
from qcompress.progress import SILENT, Progress
from qcompress.rewrite.activations import write_activations
from qcompress.rewrite.bias import shift_biases
from qcompress.rewrite.context import Context
from qcompress.rewrite.forms import FORMS
from qcompress.rewrite.rescale import rescale_channels
from qcompress.types import EncodedTensor, FloatScheme

NOTHING_FITTED: Mapping[str, EncodedTensor] = {}


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What only the written weights tell.

    ``biases``: those stored as int32 now, and their bytes. ``entropies``: weight -> bits per number of its codes. ``zeros``:
    weight -> share of its numbers that are zero. ``saved``: weight -> bytes saved by not storing them.
    """

    biases: Mapping[str, int]
    entropies: Mapping[str, float]
    zeros: Mapping[str, float]
    saved: Mapping[str, int]


def apply_plan(
    plan: CompressionPlan,
    model: Model,
    progress: Progress = SILENT,
    codes: Mapping[str, EncodedTensor] = NOTHING_FITTED,
) -> Rewritten:
    """Rewrite the model in place.

    ``codes``: weight -> what was fitted to data for it; the others are rounded as the plan says.

    Raises:
        RecipeError: the plan names something the model does not have, or a form that a weight cannot take.
    """
    rescale_channels(model, plan.channel_scales)
    shift_biases(model, plan.bias_shifts)
    layers = {layer.name: layer for layer in find_layers(model)}
    missing = [name for name in plan.weights if name not in layers]
    if missing:
        raise RecipeError(f"the plan names weight {missing[0]!r}, which the model does not have", "make the plan again")
    known = taken_names(model.graph)
    context = Context(model, plan, frozenset(plan.integer_nodes), codes)
    with progress.stage("rewrite", len(plan.weights), "weights") as stage:
        for name, decision in plan.weights.items():
            if isinstance(decision, Quantize):
                reason = why_not_stored(layers[name], decision.form, decision.scheme)
                if reason and not (
                    name in codes and decision.scheme == FloatScheme("float32")
                ):  # other values, not fewer bytes
                    raise RecipeError(
                        f"the plan wants weight {name!r} {decision.form.value} in {decision.scheme}, which it cannot be: {reason}",
                        "make the plan again",
                    )
                FORMS[decision.form](context, layers[name], decision)
            stage.advance()
    write_activations(context)
    remove_unused(model)
    narrow_halves(model)
    forget_made_up_names(model)
    shorten_names(model, known, (value for value in context.shared.values() if value.uses()))
    return Rewritten(context.biases, context.entropies, context.zeros, context.saved)
