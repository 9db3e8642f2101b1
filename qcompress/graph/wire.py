"""The bytes of a model file without its weights: where large ones lie in it, and how a file with them is framed.

A protobuf message is a row of fields, each a number and a type, then a length and that many bytes. Field numbers from
onnx.proto: ModelProto.graph 7, GraphProto.initializer 5, TensorProto.raw_data 9.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Buffer = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of an initializer lie: its position among the initializers, and the place in the file."""

    initializer: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: ``start`` of its number, ``content`` to ``end`` its bytes."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def skim(path: Path, least: int) -> tuple[bytes, list[Extent]]:
    """A model's message without the raw bytes of initializers of the main graph that have at least ``least``.

    A file that is not a message, or an unusual one, is returned as it is: whoever parses it finds out.

    Raises:
        OSError: the file cannot be read.
    """
    if path.stat().st_size <= least:
        return path.read_bytes(), []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        try:
            return _without_weights(buffer, least)
        except ValueError:
            return buffer[:], []


def field_header(number: int, length: int) -> bytes:
    """What stands in front of ``length`` bytes of a field."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def _without_weights(buffer: Buffer, least: int) -> tuple[bytes, list[Extent]]:
    parts: list[bytes] = []
    extents: list[Extent] = []
    graphs = 0
    for field in _fields(buffer, 0, len(buffer)):
        if field.number == GRAPH and field.kind == _BYTES:
            graphs += 1
            content = _light_graph(buffer, field, least, extents)
            parts += [field_header(GRAPH, len(content)), content]
        else:
            parts.append(buffer[field.start : field.end])
    if graphs > 1:
        raise ValueError("a message in several parts: initializers are not counted through")
    return b"".join(parts), extents


def _light_graph(buffer: Buffer, graph: Field, least: int, extents: list[Extent]) -> bytes:
    parts: list[bytes] = []
    count = 0
    for field in _fields(buffer, graph.content, graph.end):
        if field.number == INITIALIZER and field.kind == _BYTES:
            if field.end - field.content >= least:
                content, raw = _light_tensor(buffer, field)
                if raw is not None and raw.end - raw.content >= least:
                    extents.append(Extent(count, raw.content, raw.end - raw.content))
                    parts += [field_header(INITIALIZER, len(content)), content]
                    count += 1
                    continue
            count += 1
        parts.append(buffer[field.start : field.end])
    return b"".join(parts)


def _light_tensor(buffer: Buffer, tensor: Field) -> tuple[bytes, Field | None]:
    """A tensor's message without its raw bytes, and where those are (the last time they are given)."""
    raw: Field | None = None
    parts: list[bytes] = []
    for field in _fields(buffer, tensor.content, tensor.end):
        if field.number == RAW_DATA and field.kind == _BYTES:
            raw = field
        elif field.kind == _BYTES and field.end - field.content > 1 << 16:
            return b"", None  # numbers one by one
        else:
            parts.append(buffer[field.start : field.end])
    return b"".join(parts), raw


def _fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of a message.

    Raises:
        ValueError: the bytes are not a message.
    """
    position = start
    while position < end:
        key, content = _read_varint(buffer, position, end)
        kind = key & 7
        if kind == _BYTES:
            length, content = _read_varint(buffer, content, end)
            after = content + length
        elif kind == _VARINT:
            _, after = _read_varint(buffer, content, end)
        elif kind in (_FIXED32, _FIXED64):
            after = content + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"field type {kind}")
        if after > end or key >> 3 == 0:
            raise ValueError("a field that is longer than its message")
        yield Field(key >> 3, kind, position, content, after)
        position = after


def _read_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number without an end")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
