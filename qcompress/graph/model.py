"""A model in memory, loaded safely."""

from __future__ import annotations

from collections.abc import Sequence, Set
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from qcompress.errors import ModelError
from qcompress.graph.external import external_tensors, resolve_external_data, stored_bytes
from qcompress.graph.tensors import IN_MEMORY, stored_tensors
from qcompress.graph.wire import Extent, skim
from qcompress.graph.writing import fits_one_message, write_embedded
from qcompress.types import TensorSignature

_HIDDEN = 1 << 12
"""Bytes above which a weight is not shown to the checker."""


class Model:
    """An ONNX graph being looked at or changed, and the file it came from."""

    def __init__(self, content: ir.Model, path: Path) -> None:
        self.ir = content
        self.path = path

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.ir.graph

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        imports = self.ir.opset_imports
        return imports.get("", imports.get("ai.onnx", 1))  # two names of the default domain

    @property
    def inputs(self) -> tuple[TensorSignature, ...]:
        """The inputs a caller must feed (initializers that are also inputs are not among them)."""
        return tuple(_signature(value) for value in self.graph.inputs if value.name not in self.graph.initializers)

    @property
    def outputs(self) -> tuple[TensorSignature, ...]:
        """The outputs of the main graph."""
        return tuple(_signature(value) for value in self.graph.outputs)

    def clone(self) -> Model:
        """A copy whose graph can be edited freely; weights are shared until replaced."""
        return Model(self.ir.clone(), self.path)

    def serialize(self) -> bytes:
        """The model as one protobuf message, weights included.

        Raises:
            ModelError: the weights do not fit into one message.
        """
        if not fits_one_message(self.ir):
            raise ModelError(f"{self.path.name}: the weights do not fit into one message", "2 GiB is the limit")
        message = BytesIO()
        write_embedded(self.ir, message)
        return message.getvalue()


def load_model(path: Path | str) -> Model:
    """Read and check a model; external data, and large weights in the file itself, are mapped and not read.

    Raises:
        ModelError: not an ONNX file, invalid, or external data that is missing, truncated or outside the model's folder.
    """
    path = Path(path)
    proto, extents = _read(path)
    resolve_external_data(proto, path)
    _refer(proto, extents, path)
    try:
        content = ir.from_proto(proto)
        content.graph.sort()  # exporters are found whose files are not in topological order, and runtimes load them
        try:
            check_proto(proto, path)
        except ModelError:
            check_proto(ir.to_proto(content), path)  # in order now; if it is still refused, the checker says why
    except ModelError:
        raise
    except Exception as error:  # a parsable protobuf can still describe an impossible graph
        raise ModelError(f"{path}: the graph cannot be read: {first_words(error)}", "export the model again") from error
    check_stored(content, path)
    return Model(content, path)


def read_proto(path: Path) -> onnx.ModelProto:
    """The protobuf message of a file, external data left alone and the bytes of large weights left out.

    Raises:
        ModelError: the file is missing, unreadable, empty or not an ONNX model.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[onnx.ModelProto, list[Extent]]:
    """The same, and where the weights lie that were left out."""
    try:
        content, extents = skim(path, IN_MEMORY)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file", "check the path") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model", "the file is damaged, truncated or of another format") from error
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{path}: not an ONNX model: it has no graph", "the file is empty, damaged or of another format")
    return proto, extents


def _refer(proto: onnx.ModelProto, extents: Sequence[Extent], path: Path) -> None:
    """Let tensors whose bytes were left out refer to where these lie in the file.

    Raises:
        ModelError: there are not as many bytes as a tensor's shape and type say.
    """
    for extent in extents:
        tensor = proto.graph.initializer[extent.initializer]
        if uses_external_data(tensor) or stored_bytes(tensor, path) != extent.length:
            raise _misfit(tensor.name, path)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": path.resolve(), "offset": extent.offset, "length": extent.length}
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items())


def _hidden(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for the checker, which makes copies of its own: large weights and those in other files have no elements."""
    light = onnx.ModelProto()
    _copy_fields(proto, light, {"graph"})
    _copy_fields(proto.graph, light.graph, {"initializer"})
    for tensor in proto.graph.initializer:
        large = tensor.HasField("raw_data") and tensor.ByteSize() > _HIDDEN
        _copy_fields(tensor, light.graph.initializer.add(), {"dims", "raw_data"} if large else set())
        if large:
            light.graph.initializer[-1].dims.append(0)  # whether the bytes fit the shape is seen by check_stored
    for tensor in external_tensors(light):
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.ClearField("dims")
        tensor.dims.append(0)
    return light


def _copy_fields(source: Message, target: Message, left_out: Set[str]) -> None:
    """Copy the set fields of a message but for some."""
    for field, value in source.ListFields():
        if field.name in left_out:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


def check_proto(proto: onnx.ModelProto, path: Path) -> None:
    """Run the ONNX checker; it does not see the values of large weights.

    Raises:
        ModelError: the checker found the model invalid.
    """
    try:
        onnx.checker.check_model(_hidden(proto))
    except Exception as error:  # the checker raises its own class, and others for broken attributes
        raise ModelError(f"{path}: the ONNX checker refuses it: {first_words(error)}", "export the model again") from error


def check_stored(content: ir.Model, path: Path) -> None:
    """Make sure that every tensor holds as many bytes as its shape and type say; the checker does not.

    Raises:
        ModelError: one does not.
    """
    for tensor in stored_tensors(content):
        try:
            if isinstance(tensor, ir.ExternalTensor):  # that its file is long enough is known
                fits = tensor.length is None or tensor.length >= tensor.nbytes
            elif not isinstance(tensor, ir.serde.TensorProtoTensor):
                fits = True
            elif tensor.raw.HasField("raw_data"):
                fits = len(tensor.raw.raw_data) == tensor.nbytes
            else:
                fits = tensor.numpy().size == tensor.size
        except Exception:  # reading what does not fit together raises many unrelated classes
            fits = False
        if not fits:
            raise _misfit(tensor.name, path)


def _misfit(name: str | None, path: Path) -> ModelError:
    return ModelError(f"{path}: the bytes of tensor {name!r} do not fit its shape and type", "the file is damaged")


def first_words(error: BaseException) -> str:
    """The first meaningful line of an error's text, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _signature(value: ir.Value) -> TensorSignature:
    dtype = "" if value.dtype is None else dtype_name(value.dtype)
    shape: tuple[Any, ...] | None = None
    if value.shape is not None:
        dims = (dim if isinstance(dim, int) else dim.value for dim in value.shape)
        shape = tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in dims)  # -1 is an old way to say free
    return TensorSignature(value.name or "", dtype, shape)


def dtype_name(dtype: ir.DataType) -> str:
    """The numpy-style name of an ONNX element type: float32, int4, bfloat16, str."""
    names = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64", ir.DataType.STRING: "str"}
    return names.get(dtype, dtype.name.lower())
