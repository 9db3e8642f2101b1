"""Gradients of small models beside central finite differences in float64."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from text_models import draw, load, proto_of

from qcompress.gradient import Backward, BackwardSettings
from qcompress.runtime import Optimization, SessionSettings, open_session
from qcompress.types import Array

IN_FLOAT32, IN_FLOAT64 = 1e-3, 1e-6
"""Largest error allowed, of the largest element of the gradient."""

STEP = 1e-6
STEP_IN_FLOAT32 = 0.25
"""For functions that are linear in each of their inputs: the larger the step, the less the rounding counts."""

ELEMENTS = 10
"""As many elements of each tensor are checked, evenly spread."""


class Erf(OpRun):
    """In float64; ONNX's own is in float32."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """In float64; ONNX's own is in float32."""

    op_domain = ""

    def _run(self, x, approximate="none"):
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2))),)


@dataclass(frozen=True)
class Case:
    """A model as text: all float inputs and constants, but ``untouched``, are checked.

    ``weights``: constants, arrays or shapes to draw. ``feed``: inputs, likewise. ``linear``: the model is linear in each
    tensor alone, and differences are taken with the runtime in float32, for ONNX's evaluator lacks an operator or has it
    wrong. ``doubles``: the runtime has float64 kernels of everything.
    """

    text: str
    feed: Mapping[str, Array | tuple[int, ...]]
    weights: Mapping[str, Array | tuple[int, ...]] = field(default_factory=dict)
    untouched: Sequence[str] = ()
    linear: bool = False
    doubles: bool = True
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def drawn(name: str, what: Array | tuple[int, ...]) -> Array:
    return draw(name, *what) * max(1, int(np.prod(what[1:]))) ** 0.5 if isinstance(what, tuple) else np.asarray(what)


def check(case: Case) -> dict[str, Array]:
    """See that gradients of float inputs and constants are those of finite differences; returns them."""
    feed = {name: drawn(name, what) for name, what in case.feed.items()}
    weights = {name: drawn(name, what) for name, what in case.weights.items()}
    wanted = [name for name, array in (weights | feed).items() if array.dtype == np.float32 and name not in case.untouched]
    found, seeds = gradients(case.text, feed, weights, wanted, case.shapes)
    assert set(found) == set(wanted)
    expected = differences(case, feed, weights, seeds, wanted)
    for name in wanted:
        assert found[name].shape == (weights | feed)[name].shape, name
        _assert_near(found[name], expected[name], IN_FLOAT32, name)
    if case.doubles:
        wide = {name: _wide(name, array) for name, array in feed.items()}
        wide_weights = {name: _wide(name, array) for name, array in weights.items()}
        text = _wide_text(case.text)
        in_doubles, _ = gradients(text, wide, wide_weights, wanted, case.shapes, seeds)
        for name in wanted:
            assert in_doubles[name].dtype == np.float64
            _assert_near(in_doubles[name], expected[name], IN_FLOAT64, name)
    return found


def gradients(
    text: str,
    feed: Mapping[str, Array],
    weights: Mapping[str, Array],
    wanted: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    seeds: Mapping[str, Array] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What ``Backward`` gives, and the seeds it was given: drawn, unless there are some."""
    with tempfile.TemporaryDirectory() as folder:
        model = load(Path(folder), text, weights)
        outputs = [output.name for output in model.outputs if output.dtype in ("float32", "float64")]
        backward = Backward(model, wanted, outputs, BackwardSettings(1, shapes))
        assert backward.unreached == {}
        values = backward.forward(feed)
        drawn_seeds = {name: draw(f"seed {name}", 1, value.size).reshape(value.shape) for name, value in values.items()}
        given = {name: (seeds or drawn_seeds)[name].astype(value.dtype) for name, value in values.items()}
        return backward.run(feed, given), given


def differences(
    case: Case, feed: Mapping[str, Array], weights: Mapping[str, Array], seeds: Mapping[str, Array], wanted: Sequence[str]
) -> dict[str, Array]:
    """Gradients by central differences, NaN where none was taken."""
    proto = proto_of(case.text if case.linear else _wide_text(case.text), {})
    given = dict(feed) if case.linear else {name: _wide(name, array) for name, array in feed.items()}
    constants = dict(weights) if case.linear else {name: _wide(name, array) for name, array in weights.items()}
    for name, array in constants.items():  # so that they can be changed without loading the model anew
        proto.graph.input.append(
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        )
    given |= constants
    if case.linear:
        session = open_session(proto.SerializeToString(), SessionSettings(1, Optimization.DISABLED))
    else:
        evaluator = ReferenceEvaluator(proto, new_ops=[Erf, Gelu])
    step = STEP_IN_FLOAT32 if case.linear else STEP

    def objective(values: Mapping[str, Array]) -> float:
        outputs = (
            session.run(values)
            if case.linear
            else dict(zip(evaluator.output_names, evaluator.run(None, dict(values)), strict=True))
        )
        return sum(float((outputs[name].astype(np.float64) * seed.astype(np.float64)).sum()) for name, seed in seeds.items())

    found = {}
    for name in wanted:
        original = given[name]
        gradient = np.full(original.size, np.nan)
        for index in sorted(set(np.linspace(0, original.size - 1, ELEMENTS).astype(int))) if original.size else []:
            changed = [original.reshape(-1).copy() for _ in range(2)]
            changed[0][index] += step
            changed[1][index] -= step
            above, below = (objective({**given, name: array.reshape(original.shape)}) for array in changed)
            gradient[index] = (above - below) / (2 * step)
        found[name] = gradient.reshape(original.shape)
    return found


def _wide_text(text: str) -> str:
    return text.replace("float[", "double[").replace("float ", "double ").replace("to = 1>", "to = 11>")


def _wide(name: str, array: Array) -> Array:
    """In float64; what Resize reads beside its data is float32 in any model."""
    return array.astype(np.float64) if array.dtype == np.float32 and not name.startswith("scales") else array


def _assert_near(found: Array, expected: Array, tolerance: float, name: str) -> None:
    known = np.isfinite(expected)
    scale = max(float(np.abs(found).max(initial=0.0)), float(np.abs(expected[known]).max(initial=0.0)), 1e-3)
    error = float(np.abs(found.astype(np.float64) - expected)[known].max(initial=0.0))
    assert error <= tolerance * scale, f"{name}: {error / scale:.2g}"
