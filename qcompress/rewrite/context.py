"""What every form needs while the graph is rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from qcompress.decisions import CompressionPlan, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import Graph, Model, Node, Value
from qcompress.graph.edit import Editor, taken_names
from qcompress.operators import Layer
from qcompress.quantize import (
    Evidence,
    Layout,
    code_entropy,
    fit_weight,
    least_scales_kept,
    quantize_weight,
    with_short_scales,
    zero_share,
)
from qcompress.types import Array, EncodedTensor, QuantizedTensor, QuantScheme, Rounding


@dataclass(slots=True)
class Context:
    """The model being rewritten, its plan, and what several layers share."""

    model: Model
    plan: CompressionPlan
    integer_nodes: frozenset[str]
    codes: Mapping[str, EncodedTensor] = field(default_factory=dict)
    """Weight -> what was fitted to data for it."""
    editors: dict[Graph, Editor] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    """Names taken anywhere in the model."""
    shared: dict[tuple[Graph, str], Value] = field(default_factory=dict)
    """Small constants that several nodes of a graph read."""
    biases: dict[str, int] = field(default_factory=dict)
    """Bias -> bytes it takes as int32, scales included."""
    entropies: dict[str, float] = field(default_factory=dict)
    """Weight -> entropy of its codes, bits per number."""
    zeros: dict[str, float] = field(default_factory=dict)
    """Weight -> share of its numbers that are zero."""
    saved: dict[str, int] = field(default_factory=dict)
    """Weight -> bytes fewer than all of its codes would take, where zeros are not stored."""
    dynamic_inputs: dict[Value, tuple[Value, Value, Value]] = field(default_factory=dict)
    """Tensor -> its dynamically quantized codes, scale and zero point, for all products that read it."""

    def editor(self, graph: Graph) -> Editor:
        """The editor of a graph, the same at every call."""
        if graph not in self.editors:
            self.names = self.names or taken_names(self.model.graph)
            self.editors[graph] = Editor(graph, self.names)
        return self.editors[graph]

    def activation_scale(self, tensor: str) -> Value:
        """The scale constant of a quantized activation, the same at every call."""
        return self.shared_constant(
            self.model.graph, f"{tensor}/s", np.asarray(self.plan.activations[tensor].scale, dtype=np.float32)
        )

    def activation_zero_point(self, tensor: str) -> Value:
        """The zero point constant of a quantized activation, one for all tensors that have the same."""
        code = self.plan.activations[tensor].zero_point
        array = np.asarray(code, dtype=self.plan.activation_scheme.storage)
        return self.shared_constant(self.model.graph, f"zero_point/{code}", array)

    def shared_constant(self, graph: Graph, name: str, array: Array) -> Value:
        """A constant of a graph, the same at every call with this name."""
        if (graph, name) not in self.shared:
            self.shared[graph, name] = self.editor(graph).constant(name, array)
        return self.shared[graph, name]

    @property
    def main(self) -> Editor:
        """The editor of the main graph."""
        return self.editor(self.model.graph)

    def is_integer(self, node: Node) -> bool:
        """Whether the plan lets this node compute on integers."""
        return node.graph is self.model.graph and node.name in self.integer_nodes


Encoded = TypeVar("Encoded", bound=EncodedTensor)

Writer = Callable[[Context, Layer, Quantize], None]
"""Writes one weight in one form."""


def encode(context: Context, layer: Layer, decision: Quantize) -> EncodedTensor:
    """What was fitted for a weight to data, or what its own numbers give under the decision."""
    return _noted(context, layer, _encoded(context, layer, decision))


def _encoded(context: Context, layer: Layer, decision: Quantize) -> EncodedTensor:
    encoded = context.codes.get(layer.name)
    if encoded is None:
        scheme = layer.scheme(decision.scheme)
        if isinstance(scheme, QuantScheme) and decision.rounding is not Rounding.HQQ:
            encoded = quantize_weight(layer.array, scheme, decision.clip)
        else:  # nothing is known of what it multiplies
            encoded = fit_weight(layer.array, scheme, decision.rounding, Evidence(Layout.TABLE))
    return with_short_scales(encoded) if isinstance(encoded, QuantizedTensor) else encoded


def encode_integers(context: Context, layer: Layer, decision: Quantize, least_scale: Array | None = None) -> QuantizedTensor:
    """The same for forms that compute with the codes.

    Args:
        context: its codes are looked at first.
        layer: whose weight.
        decision: its scheme is affine.
        least_scale: (channels,) or None; groups with smaller scales are rounded again with these.

    Raises:
        RecipeError: what was fitted has no integer codes.
    """
    scheme = layer.scheme(decision.scheme)
    if least_scale is not None:
        least_scale = least_scale * np.float32(1.0 + 2.0**-10)  # so that they are not below when they become float16
    unfitted = layer.name not in context.codes and decision.rounding is not Rounding.HQQ
    if unfitted and least_scale is not None and isinstance(scheme, QuantScheme):
        nearest = quantize_weight(layer.array, scheme, decision.clip, least_scale)
        return _noted(context, layer, with_short_scales(nearest))
    encoded = encode(context, layer, decision)
    if not isinstance(encoded, QuantizedTensor):
        raise RecipeError(
            f"weight {layer.name!r} is fitted in {encoded.scheme}, which has no integers to compute with",
            "make the plan again",
        )
    if least_scale is None:
        return encoded
    pruned = layer.name in context.plan.prunes  # what was made zero stays zero
    return with_short_scales(least_scales_kept(encoded, encoded.dequantize() if pruned else layer.array, least_scale))


def _noted(context: Context, layer: Layer, encoded: Encoded) -> Encoded:
    entropy = code_entropy(encoded)
    if entropy is not None:
        context.entropies[layer.name] = entropy
    context.zeros[layer.name] = zero_share(encoded)
    return encoded
