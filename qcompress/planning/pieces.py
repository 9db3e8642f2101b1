"""The model in pieces that run one after the other, and a plan cut down to the pieces it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcompress.decisions import CompressionPlan, Quantize
from qcompress.errors import ModelError
from qcompress.graph import Model, Node, extend, message
from qcompress.graph.edit import int_attribute
from qcompress.graph.segments import CutSettings, Segments, stated_types
from qcompress.operators import find_layers
from qcompress.operators.flow import bias_holder, settled
from qcompress.operators.regions import Region, find_region
from qcompress.rewrite import apply_plan
from qcompress.rewrite.apply import NOTHING_FITTED
from qcompress.runtime import Optimization, Session, SessionSettings, open_session
from qcompress.types import EncodedTensor, TensorSignature

Shapes = Mapping[str, tuple[int, ...]]

PASSABLE = frozenset(
    ("float16", "float32", "float64", "bool", "str", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
)
"""Element types that pass from one session to the next through numpy."""

WORK_PER_ELEMENT = 4.0
"""Multiply-adds that take about as long as writing an element of an operator without products."""

Span = tuple[int, int]
"""First and last of consecutive segments."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """What is known of the tensors of a model: name -> type and rank; ``sizes``: bytes in a feed, 0 where not known."""

    types: Mapping[str, TensorSignature]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, model: Model, shapes: Shapes) -> Tensors:
        """Element types as the file states them, else as the runtime infers them.

        Raises:
            ModelError: the runtime cannot load the model.
        """
        stated = stated_types(model)
        outputs = [value.name for node in model.graph for value in node.outputs if value.name]
        dtypes = stated | _inferred_types(model, [name for name in outputs if name not in stated])
        types, sizes = {}, {}
        for name, dtype in dtypes.items():
            shape = shapes.get(name)
            if dtype in PASSABLE:
                types[name] = TensorSignature(name, dtype, None if shape is None else (None,) * len(shape))
                width = 8 if dtype == "str" else np.dtype(dtype).itemsize
                sizes[name] = 0 if shape is None else int(np.prod(shape, dtype=np.int64)) * width
        return cls(types, sizes)


def cut(model: Model, tensors: Tensors, shapes: Shapes, count: int) -> Segments:
    """Cut a model into about ``count`` segments that take equally long."""
    return Segments(model, CutSettings(count, _work(model, shapes), tensors.sizes, inner_tensors(model, tensors)))


def open_piece(model: Model, threads: int) -> Session:
    """A session of a model that was made in memory."""
    return open_session(message(model), SessionSettings(threads=threads, spinning=False, arena=False))


class Cutter:
    """Finds the segments that a plan changes and rewrites them, without touching the others."""

    def __init__(self, model: Model, segments: Segments, tensors: Tensors) -> None:
        self._model = model
        self._segments = segments
        self._tensors = tensors
        self._index = segments.index()
        self._regions: dict[str, Span] = {}
        self._weights: dict[str, Span] = {}
        for layer in find_layers(model):
            numbers = {self._index[use.node.name or ""] for use in layer.uses if use.node.name in self._index}
            self._weights[layer.name] = (min(numbers, default=0), max(numbers, default=len(segments) - 1))

    def of_weights(self, names: Sequence[str]) -> list[Span]:
        """The runs of segments in which the weights are used; a weight of several segments makes one run of them."""
        return _merged([self._weights[name] for name in names if name in self._weights])

    def spans(self, plan: CompressionPlan) -> list[Span]:
        """The runs of segments that a plan changes."""
        nodes = [self._index[name] for name in (*plan.integer_nodes, *plan.bias_shifts) if name in self._index]
        spans = [*self.of_weights(_quantized(plan)), *((number, number) for number in nodes)]
        return _merged([*spans, *(self._rescaled(name) for name in plan.channel_scales)])

    def rewritten(self, plan: CompressionPlan, span: Span, codes: Mapping[str, EncodedTensor] = NOTHING_FITTED) -> Model:
        """A run of segments as a model of its own, changed as the plan says; ``codes`` were fitted to data."""
        model = self._segments.extract(*span, self._tensors.types)
        nodes = {node.name for node in model.graph}
        tensors = {value.name for value in model.graph.inputs}
        tensors |= {value.name for node in model.graph for value in node.outputs}
        inside = {name for name in _quantized(plan) if _holds(span, self._weights[name])}
        rescaled = {name: scales for name, scales in plan.channel_scales.items() if _holds(span, self._rescaled(name))}
        part = replace(
            plan,
            channel_scales=rescaled,
            weights={name: decision for name, decision in plan.weights.items() if name in inside},
            activations={name: item for name, item in plan.activations.items() if name in tensors},
            integer_nodes=tuple(name for name in plan.integer_nodes if name in nodes),
            bias_shifts={name: shift for name, shift in plan.bias_shifts.items() if name in nodes},
        )
        apply_plan(part, model, codes=codes)
        return model

    def _rescaled(self, name: str) -> Span:
        """The run of segments that changes when the channels of a tensor are rescaled."""
        if name not in self._regions:
            outputs = (value for node in self._model.graph for value in node.outputs)
            tensor = next((value for value in (*self._model.graph.inputs, *outputs) if value.name == name), None)
            region = "not there" if tensor is None else find_region(self._model, tensor)
            everything = (0, len(self._segments) - 1)  # rewriting the whole model says what is wrong
            self._regions[name] = everything if isinstance(region, str) else self._span_of(region)
        return self._regions[name]

    def _span_of(self, region: Region) -> Span:
        nodes = {*region.readers, *(edit.node for edit in region.edits)}
        if not region.inserted:
            scaled = set(region.scaled)
            for node in self._model.graph:
                if any(value is not None and value.name in scaled for value in (*node.inputs, *node.outputs)):
                    nodes.add(node)
        numbers = [self._index[node.name or ""] for node in nodes if node.name in self._index]
        return min(numbers, default=0), max(numbers, default=len(self._segments) - 1)


def _quantized(plan: CompressionPlan) -> list[str]:
    return [name for name, decision in plan.weights.items() if isinstance(decision, Quantize)]


def _holds(outer: Span, inner: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that overlap made one."""
    merged: list[Span] = []
    for first, last in sorted(set(spans)):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _inferred_types(model: Model, names: Sequence[str]) -> dict[str, str]:
    """Element types as the runtime infers them at load; nothing is run."""
    if not names:
        return {}
    try:
        session = open_session(extend(model, [], {}, names), SessionSettings(threads=1, optimization=Optimization.DISABLED))
    except ModelError:  # an optional value cannot be an output: these tensors are never cut then
        return {}
    return {output.name: output.dtype for output in session.outputs}


def inner_tensors(model: Model, tensors: Tensors) -> set[str]:
    """Tensors that must not cross: inside what is rewritten as one, or of a type that numpy does not have."""
    inner: set[str] = set()
    for node in model.graph:
        holder = bias_holder(node) if node.outputs else None
        kept = {node.outputs[0]} if holder is not None and holder[0] is not node else set()
        kept |= {value for value in node.outputs if settled(value) is not value}
        inner |= {value.name or "" for value in kept}
        inner |= {value.name for value in node.outputs if value.name and value.name not in tensors.types}
    return inner


def _work(model: Model, shapes: Shapes) -> dict[str, float]:
    """Multiply-adds of each node, roughly; enough to cut a model into equal parts."""
    return {node.name or "": _node_work(node, shapes) for node in model.graph}


def _node_work(node: Node, shapes: Shapes) -> float:
    written = sum(_elements(shapes.get(value.name or "", ())) for value in node.outputs)
    first = shapes.get(node.inputs[0].name or "", ()) if node.inputs and node.inputs[0] is not None else ()
    stored = [value.const_value for value in node.inputs[1:] if value is not None and value.const_value is not None]
    if node.op_type == "Conv" and stored:
        return written * stored[0].size / max(stored[0].shape.numpy()[0], 1)
    if node.op_type == "ConvTranspose" and stored:
        return _elements(first) * stored[0].size / max(stored[0].shape.numpy()[0], 1)
    if node.op_type in ("MatMul", "Gemm") and first:
        return float(written * first[-2 if int_attribute(node, "transA", 0) else -1])
    if node.op_type in ("LSTM", "GRU", "RNN") and first:
        return float(_elements(first[:-1]) * sum(tensor.size for tensor in stored))
    return WORK_PER_ELEMENT * written


def _elements(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
