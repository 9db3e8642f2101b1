"""The bytes of a model: written as a stream with its weights, or without those that lie in files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import onnx_ir as ir

from qcompress.errors import ModelError
from qcompress.graph.external import embed_external_data
from qcompress.graph.tensors import location_from_root, mapped_tensor, stored_tensors, tensor_array, write_tensor
from qcompress.graph.wire import GRAPH, INITIALIZER, RAW_DATA, field_header
from qcompress.types import Array

EMBEDDED_LIMIT = 1_800_000_000
"""Bytes of weights above which a model is saved with external data: protobuf stops at 2 GiB."""

STREAMED = 1 << 12
"""Bytes from which a weight is copied from where it lies into the file, or into the file of external data."""

PAGE = 1 << 12
"""External weights of a page or more begin at a page, so that they can be mapped alone."""

WORD = 64
"""Smaller ones begin where vector instructions like it."""

Replacement = Callable[[str, ir.TensorProtocol], ir.TensorProtocol]


def fits_one_message(content: ir.Model) -> bool:
    """Whether the weights can be in the file itself."""
    return sum(tensor.nbytes for tensor in stored_tensors(content)) <= EMBEDDED_LIMIT


def write_embedded(model: ir.Model, file: IO[bytes]) -> None:
    """Write one message; the main graph's weights are its last fields, and never two of them are in memory."""
    head, frames = _embedded(model)
    file.write(head)
    for frame in frames:
        frame.write(file)


def embedded_bytes(model: ir.Model) -> int:
    """Bytes of that message; nothing is read."""
    head, frames = _embedded(model)
    return len(head) + sum(frame.size for frame in frames)


def _embedded(model: ir.Model) -> tuple[bytes, list[_Frame]]:
    content = _clone(model)
    stored = {name: value.const_value for name, value in content.graph.initializers.items() if value.const_value is not None}
    frames = [_Frame.of(name, tensor) for name, tensor in stored.items()]
    for name in stored:
        del content.graph.initializers[name]
    proto = ir.to_proto(content)
    embed_external_data(proto)  # of bodies
    needed = [info for info in proto.graph.value_info if info.name not in stored]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(needed)
    graph = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    head = proto.SerializeToString(deterministic=True)
    header = field_header(GRAPH, len(graph) + sum(frame.size for frame in frames))
    return head + header + graph, frames


def write_external(model: ir.Model, data: Path, location: str) -> onnx.ModelProto:
    """Write the weights of all graphs to a file one after the other; returns the message that refers to them."""
    with data.open("wb") as file:

        def put(name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            if tensor.dtype == ir.DataType.STRING or tensor.nbytes < WORD:
                return tensor
            step = PAGE if tensor.nbytes >= PAGE else WORD
            offset = -(-file.tell() // step) * step
            file.write(bytes(offset - file.tell()))
            _copy(tensor, file)
            return _at(name, tensor, location, offset)

        return _proto(_replaced(model, put))


def referring(model: ir.Model) -> onnx.ModelProto:
    """The model as a message in which weights that lie in files are named by their place under ROOT."""
    return _proto(_replaced(model, _refer))


def constant_proto(name: str, array: Array) -> onnx.TensorProto:
    """An array as an initializer of such a message."""
    mapped = mapped_tensor(array, name)
    return onnx.numpy_helper.from_array(np.asarray(array), name) if mapped is None else ir.to_proto(_refer(name, mapped))


def _refer(name: str, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    location = location_from_root(tensor)
    return ir.tensor(tensor_array(tensor), name=name) if location is None else _at(name, tensor, location, tensor.offset)


def _clone(model: ir.Model) -> ir.Model:
    """A copy in which nodes without names still have none."""
    content = model.clone()
    for graph, copy in zip(_scopes(model), _scopes(content), strict=True):
        for node, same in zip(graph, copy, strict=True):
            same.name = node.name
    return content


def _scopes(model: ir.Model) -> list[ir.Graph | ir.Function]:
    return [*model.graphs(), *model.functions.values()]


def _replaced(model: ir.Model, replacement: Replacement) -> ir.Model:
    """A copy of the model with other tensors as initializers of all graphs."""
    content = _clone(model)
    for graph in content.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                value.const_value = replacement(name, value.const_value)
    return content


def _proto(content: ir.Model) -> onnx.ModelProto:
    """The model as a message, without the types of what is stored: a tensor knows its type itself."""
    proto = ir.to_proto(content)
    stored = {tensor.name for tensor in proto.graph.initializer}
    needed = [info for info in proto.graph.value_info if info.name not in stored]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(needed)
    return proto


def _at(name: str, tensor: ir.TensorProtocol, location: str, offset: int | None) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(location, offset or 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)


@dataclass(frozen=True, slots=True)
class _Frame:
    """An initializer as a field of a graph: its bytes, and the tensor behind them if it is not among them."""

    head: bytes
    tensor: ir.TensorProtocol | None

    @classmethod
    def of(cls, name: str, tensor: ir.TensorProtocol) -> _Frame:
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < STREAMED:
            proto = ir.to_proto(tensor)
            proto.name = name  # a tensor that was lifted from a node may have another one
            whole = onnx.ModelProto()
            whole.graph.initializer.append(proto)
            embed_external_data(whole)
            content = whole.graph.initializer[0].SerializeToString(deterministic=True)
            return cls(field_header(INITIALIZER, len(content)) + content, None)
        proto = onnx.TensorProto(name=name, dims=tensor.shape.numpy(), data_type=tensor.dtype.value)
        content = proto.SerializeToString(deterministic=True) + field_header(RAW_DATA, tensor.nbytes)
        return cls(field_header(INITIALIZER, len(content) + tensor.nbytes) + content, tensor)

    @property
    def size(self) -> int:
        """Bytes of the whole field."""
        return len(self.head) + (0 if self.tensor is None else self.tensor.nbytes)

    def write(self, file: IO[bytes]) -> None:
        """Write the field."""
        file.write(self.head)
        if self.tensor is not None:
            _copy(self.tensor, file)


def _copy(tensor: ir.TensorProtocol, file: IO[bytes]) -> None:
    before = file.tell()
    write_tensor(tensor, file)
    if file.tell() != before + tensor.nbytes:
        raise ModelError(f"tensor {tensor.name!r} has not as many bytes as its shape and type say", "the file is damaged")
