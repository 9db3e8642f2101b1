"""Models written as ONNX text, and what tests of graph rewriting do with them: prepare, plan by hand, run three ways."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from qcompress.calibrate import observe_shapes
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.graph import Model, digest, extend, load_model
from qcompress.graph.edit import set_constant
from qcompress.operators import find_layers
from qcompress.pipeline import prepared_from
from qcompress.plan.choose import static_nodes
from qcompress.plan.fit import fit_activations
from qcompress.plan.placement import place
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite.context import Context, encode
from qcompress.runtime import Optimization, SessionSettings, open_session
from qcompress.types import Array, EncodedTensor, Feed, Form, Statistics, TensorRange, parse_scheme

ModelLike = Model | bytes
Weights = Mapping[str, Array | tuple[int, ...]]

UNET_BODY = """
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    ra = Relu (a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (ra)
    b = Conv <pads = [1, 1, 1, 1]> (p, w2)
    inner = Relu (b)
    q = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (inner)
    c = Conv <pads = [1, 1, 1, 1]> (q, w3)
    rc = Relu (c)
    u = Resize <mode = "nearest"> (rc, , scales)
    v = Concat <axis = 1> (u, inner)
    d = Conv <pads = [1, 1, 1, 1]> (v, w4)
    rd = Relu (d)
    t = Resize <mode = "nearest"> (rd, , scales)
    z = Concat <axis = 1> (t, ra)
    y = Conv <pads = [1, 1, 1, 1]> (z, w5)
"""
"""From float[1, 4, 16, 16] x to y of its shape and float[1, 8, 8, 8] inner."""

UNET_WEIGHTS: Weights = {
    "w1": (4, 4, 3, 3),
    "w2": (8, 4, 3, 3),
    "w3": (8, 8, 3, 3),
    "w4": (4, 16, 3, 3),
    "w5": (4, 8, 3, 3),
    "scales": np.array([1, 1, 2, 2], np.float32),
}


def draw(name: str, *shape: int, dtype: str = "float32") -> Array:
    """Normal numbers that depend on nothing but the name and shape; the variance suits a fan-in of all axes but the first."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return np.asarray(rng.normal(0.0, max(fan_in, 1) ** -0.5, shape)).astype(dtype)


def proto_of(text: str, weights: Weights) -> onnx.ModelProto:
    """The parsed text with initializers: arrays, or shapes to draw float32 numbers for.

    A name like ``then/w`` goes into the body called ``then``.
    """
    proto = onnx.parser.parse_model(text)
    for name, what in weights.items():
        body, _, bare = name.rpartition("/")
        array = draw(name, *what) if isinstance(what, tuple) else what
        graph = _body(proto.graph, body) if body else proto.graph
        graph.initializer.append(onnx.numpy_helper.from_array(array, bare))
    return proto


def _body(graph: onnx.GraphProto, name: str) -> onnx.GraphProto:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") and attribute.g.name == name:
                return attribute.g
    raise KeyError(name)


def load(folder: Path, text: str, weights: Weights) -> Model:
    """The model of the text, written to the folder and loaded from there."""
    path = folder / "model.onnx"
    path.write_bytes(proto_of(text, weights).SerializeToString())
    return load_model(path)


def prepared(folder: Path, text: str, weights: Weights) -> Model:
    """The same, prepared for compression."""
    return prepared_from(load(folder, text, weights))


def run(model: ModelLike, feed: Feed, optimization: Optimization = Optimization.ALL) -> list[Array]:
    """The outputs, in order, at one optimization level of the runtime."""
    content = model if isinstance(model, bytes) else model.serialize()
    return list(open_session(content, SessionSettings(1, optimization)).run(feed).values())


def run_reference(model: ModelLike, feed: Feed) -> list[Array] | None:
    """The outputs by ONNX's own evaluator, None where it has not got an operator.

    It has QuantizeLinear from operator set 19 on only; the models of these tests mean the same in 19.
    """
    proto = onnx.ModelProto.FromString(model if isinstance(model, bytes) else model.serialize())
    if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
        (opset,) = (entry for entry in proto.opset_import if not entry.domain)
        opset.version = max(opset.version, 19)
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(array) for array in ReferenceEvaluator(proto).run(None, dict(feed))]
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # it lacks grouped ConvTranspose, for example
        return None


def three_ways(model: ModelLike, feed: Feed, reference: bool = True) -> dict[str, list[Array]]:
    """The outputs of ORT_ENABLE_ALL, ORT_DISABLE_ALL and, where it can, onnx.reference."""
    results = {"all": run(model, feed), "disabled": run(model, feed, Optimization.DISABLED)}
    third = run_reference(model, feed) if reference else None
    return results if third is None else results | {"reference": third}


def check(model: ModelLike) -> None:
    """The ONNX checker, with types inferred strictly."""
    proto = onnx.ModelProto.FromString(model if isinstance(model, bytes) else model.serialize())
    onnx.checker.check_model(proto, full_check=True)


def assert_close(found: list[Array], expected: list[Array], tolerance: float = 1e-5) -> None:
    """Every output has its type and shape and differs by at most ``tolerance`` of its largest value."""
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        scale = max(float(np.abs(wanted.astype(np.float64)).max(initial=0.0)), 1e-6)
        assert float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0)) <= tolerance * scale


def sqnr(found: Array, expected: Array) -> float:
    """Signal to noise in dB."""
    noise = float(np.square(found.astype(np.float64) - expected.astype(np.float64)).sum())
    return 10.0 * float(np.log10(np.square(expected.astype(np.float64)).sum() / max(noise, 1e-30)))


def plan_by_hand(
    model: Model, forms: Mapping[str, Form], feed: Feed, scheme: str = "int8/channel", mode: Mode = Mode.AUTO
) -> CompressionPlan:
    """A plan that gives exactly these forms; activation ranges are those of the feed."""
    layers, recipe = find_layers(model), Recipe(mode=mode)
    weights = {
        layer.name: Quantize(forms[layer.name], parse_scheme(scheme)) if layer.name in forms else Keep("by hand")
        for layer in layers
    }
    assert set(forms) <= set(weights), f"no weight {set(forms) - set(weights)} in {set(weights)}"
    chosen = {name: item if isinstance(item, Keep) else item.form for name, item in weights.items()}
    placement = place(model, static_nodes(model, layers, chosen, mode), observe_shapes(model, feed))
    ranges: dict[str, TensorRange] = {}
    if placement.tensors:
        arrays = open_session(extend(model, [], {}, placement.tensors)).run(feed)
        ranges = {name: TensorRange(float(array.min()), float(array.max())) for name, array in arrays.items()}
    nothing: dict[str, Any] = {item.name: {} for item in fields(Statistics)}
    statistics = Statistics(**{**nothing, "ranges": ranges, "samples": 1})
    return CompressionPlan(
        source=digest(model.path),
        recipe="by hand",
        weights=weights,
        activation_scheme=recipe.activations,
        activations=fit_activations(placement, statistics, recipe),
        integer_nodes=placement.nodes,
    )


def with_rounded_weights(model: Model, plan: CompressionPlan, codes: Mapping[str, EncodedTensor] | None = None) -> Model:
    """A copy that computes in float with the weights the plan's codes stand for."""
    copy = model.clone()
    context = Context(copy, plan, frozenset(), codes or {})
    for layer in find_layers(copy):
        decision = plan.weights[layer.name]
        if isinstance(decision, Quantize):
            set_constant(layer.weight, encode(context, layer, decision).dequantize().reshape(layer.shape))
    return copy


def operators(model: Model) -> list[str]:
    """Operator types of the main graph, in order."""
    return [node.op_type for node in model.graph]
