"""Damaged model files, reproducible from a seed: bytes changed blindly, and fields changed so that the file still parses."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import onnx

from qcompress.errors import QcompressError
from qcompress.pipeline import inspect_model

EXTREMES = (0, -1, 1, 2**31 - 1, -(2**31), 2**62, -(2**63), 255, 1000)
"""Integers that break arithmetic which trusts the file."""

WORDS = (
    "",
    "x",
    "Conv",
    "If",
    "Loop",
    "Gemm",
    "MatMul",
    "LSTM",
    "Constant",
    "\u00e9",
    "a" * 300,
    "../../etc/passwd",
    "com.microsoft",
)
"""Names that mean something else, or too much."""


def mutate(content: bytes, seed: int) -> bytes:
    """The file with one to four kinds of damage, decided by the seed."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 4)):
            content = rng.choice(BLIND)(content, rng)
        return content
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.randint(1, 4)):
        rng.choice(STRUCTURED)(model, rng)
    return model.SerializeToString()


def _place(content: bytes, rng: random.Random) -> int:
    """Anywhere, but every second time near the ends, where the structure of the graph is."""
    near = min(len(content), 4096)
    return rng.choice(
        (
            rng.randrange(max(len(content), 1)),
            rng.randrange(max(near, 1)),
            max(len(content) - 1 - rng.randrange(max(near, 1)), 0),
        )
    )


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 16)):
        if changed:
            changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    filling = rng.choice((b"\xff", b"\x00", b"\x80", rng.randbytes(1))) * rng.randint(1, 12)
    return content[:at] + filling + content[at + len(filling) :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + rng.randint(1, 64) :]


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.randbytes(rng.randint(1, 32)) + content[at:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    at = _place(content, rng)
    piece = content[at : at + rng.randint(1, 256)]
    return content[:at] + piece * rng.randint(2, 4) + content[at:]


BLIND: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _overwrite, _cut, _truncate, _insert, _repeat)


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    """Shape, type, name or bytes of a weight."""
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(5):
        case 0 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(EXTREMES)
        case 1:
            tensor.data_type = rng.choice((*range(30), 1000))
        case 2:
            tensor.name = rng.choice((*WORDS, rng.choice(model.graph.initializer).name))
        case 3:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case _:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", rng.choice(WORDS)),
                ("offset", str(rng.choice(EXTREMES))),
                ("length", rng.choice(WORDS)),
            ):
                tensor.external_data.add(key=key, value=value)


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Operator, domain, inputs, outputs or existence of a node."""
    if not model.graph.node:
        return
    node = rng.choice(model.graph.node)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)] or [""]
    match rng.randrange(7):
        case 0:
            node.op_type = rng.choice((*WORDS, rng.choice(model.graph.node).op_type))
        case 1:
            node.domain = rng.choice(WORDS)
        case 2 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice((*WORDS, *names))
        case 3 if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice((*WORDS, *names))
        case 4:
            del node.input[:]
        case 5:
            model.graph.node.remove(node)
        case _:
            model.graph.node.add().CopyFrom(node)


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """Type or value of an attribute; a body nested into itself."""
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = rng.choice(rng.choice(nodes).attribute)
    match rng.randrange(5):
        case 0:
            attribute.type = rng.randrange(15)
        case 1:
            attribute.i = rng.choice(EXTREMES)
        case 2 if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(EXTREMES)
        case 3:
            attribute.name = rng.choice(WORDS)
        case _:
            body = onnx.GraphProto()
            body.CopyFrom(model.graph)
            del body.initializer[:]
            attribute.type = onnx.AttributeProto.GRAPH
            attribute.g.CopyFrom(body)


def _interface(model: onnx.ModelProto, rng: random.Random) -> None:
    """Inputs and outputs of the graph: names, types, shapes."""
    values = [*model.graph.input, *model.graph.output]
    if not values:
        return
    value = rng.choice(values)
    dims = value.type.tensor_type.shape.dim
    match rng.randrange(5):
        case 0:
            value.name = rng.choice(WORDS)
        case 1:
            value.type.tensor_type.elem_type = rng.choice((*range(30), 1000))
        case 2 if dims:
            rng.choice(dims).dim_value = rng.choice(EXTREMES)
        case 3:
            value.type.Clear()
        case _:
            model.graph.input.add().CopyFrom(value)


def _header(model: onnx.ModelProto, rng: random.Random) -> None:
    """Versions and operator sets."""
    match rng.randrange(4):
        case 0:
            model.ir_version = rng.choice(EXTREMES)
        case 1 if model.opset_import:
            rng.choice(model.opset_import).version = rng.choice((*EXTREMES, 5, 9, 22))
        case 2 if model.opset_import:
            rng.choice(model.opset_import).domain = rng.choice(WORDS)
        case _:
            del model.opset_import[:]


STRUCTURED: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (_tensor, _node, _attribute, _interface, _header)


def attempt(path: Path) -> str:
    """Load and inspect the file; the first words of the refusal, or ``loaded``. Anything but our own errors escapes."""
    try:
        inspect_model(path)
    except QcompressError as error:
        return error.message
    return "loaded"
