"""A model in memory: load it safely, serialize it, save it atomically."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from qcompress.errors import ModelError, OutputError
from qcompress.graph.external import embed_external_data, external_tensors, resolve_external_data
from qcompress.types import Array, NodeSpec, TensorSignature

EMBEDDED_LIMIT = 1_800_000_000
"""Bytes of weights above which a model is saved with external data: protobuf stops at 2 GiB."""


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
        total = sum(tensor.nbytes for tensor in stored_tensors(self.ir))
        if total > EMBEDDED_LIMIT:
            raise ModelError(f"{self.path.name}: {total} bytes of weights do not fit into one message", "2 GiB is the limit")
        return bytes(self.to_proto().SerializeToString(deterministic=True))

    def to_proto(self) -> onnx.ModelProto:
        """The model as one protobuf message with external data read into it."""
        proto = ir.to_proto(self.ir)
        embed_external_data(proto)
        stored = {tensor.name for tensor in proto.graph.initializer}
        needed = [info for info in proto.graph.value_info if info.name not in stored]  # a tensor knows its type itself
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(needed)
        return proto


def load_model(path: Path | str) -> Model:
    """Read and check a model; external data is mapped, not read.

    Raises:
        ModelError: not an ONNX file, invalid, or external data that is missing, truncated or outside the model's folder.
    """
    path = Path(path)
    proto = read_proto(path)
    resolve_external_data(proto, path)
    try:
        content = ir.from_proto(proto)
        content.graph.sort()  # exporters are found whose files are not in topological order, and runtimes load them
        external = any(True for _ in external_tensors(proto))
        if not external and not _is_valid(proto):
            proto = ir.to_proto(content)  # in order now; if it is still refused, the checker says why
            check_proto(proto, path)
    except ModelError:
        raise
    except Exception as error:  # a parsable protobuf can still describe an impossible graph
        raise ModelError(f"{path}: the graph cannot be read: {first_words(error)}", "export the model again") from error
    if external:
        check_proto(proto, path)
    check_stored(content, path)
    return Model(content, path)


def read_proto(path: Path) -> onnx.ModelProto:
    """The protobuf message of a file, external data left alone.

    Raises:
        ModelError: the file is missing, unreadable, empty or not an ONNX model.
    """
    try:
        content = path.read_bytes()
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
    return proto


def _is_valid(proto: onnx.ModelProto) -> bool:
    """Whether the ONNX checker accepts the file as it is; large weights are hidden from it, because it makes copies."""
    light = onnx.ModelProto()
    _copy_fields(proto, light, {"graph"})
    _copy_fields(proto.graph, light.graph, {"initializer"})
    for tensor in proto.graph.initializer:
        large = tensor.HasField("raw_data") and tensor.ByteSize() > _HIDDEN
        _copy_fields(tensor, light.graph.initializer.add(), {"dims", "raw_data"} if large else set())
        if large:
            light.graph.initializer[-1].dims.append(0)  # whether the bytes fit the shape is seen by check_stored
    try:
        onnx.checker.check_model(light)
    except Exception:  # the checker raises its own class, and others for broken attributes
        return False
    return True


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
    """Run the ONNX checker.

    Raises:
        ModelError: the checker found the model invalid.
    """
    try:
        if proto.ByteSize() < EMBEDDED_LIMIT and not any(True for _ in external_tensors(proto)):
            onnx.checker.check_model(proto)
        else:
            onnx.checker.check_model(str(path))
    except Exception as error:  # the checker raises its own class, and others for broken attributes
        raise ModelError(f"{path}: the ONNX checker refuses it: {first_words(error)}", "export the model again") from error


def check_stored(content: ir.Model, path: Path) -> None:
    """Make sure that every tensor in the file holds as many bytes as its shape and type say; the checker does not.

    Raises:
        ModelError: one does not.
    """
    for tensor in stored_tensors(content):
        if not isinstance(tensor, ir.serde.TensorProtoTensor):
            continue  # external data was checked against its file
        try:
            if tensor.raw.HasField("raw_data"):
                fits = len(tensor.raw.raw_data) == tensor.nbytes
            else:
                fits = tensor.numpy().size == tensor.size
        except Exception:  # reading what does not fit together raises many unrelated classes
            fits = False
        if not fits:
            raise ModelError(
                f"{path}: the bytes of tensor {tensor.name!r} do not fit its shape and type", "the file is damaged"
            )


def save_model(model: Model, target: Path) -> None:
    """Write the model atomically: the target is either the whole new file or what it was before.

    Weights of more than about 1.8 GB go to ``<target>.data`` beside it.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    total = sum(tensor.nbytes for tensor in stored_tensors(model.ir))
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    data_part = target.with_name(f"{target.name}.data")
    try:
        if total <= EMBEDDED_LIMIT:
            part.write_bytes(model.serialize())
        else:
            ir.save(model.ir, part, format="protobuf", external_data=data_part.name)
        part.replace(target)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror}", "check the folder, its permissions and the space left"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def extend(
    model: Model,
    nodes: Sequence[NodeSpec],
    constants: Mapping[str, Array],
    outputs: Sequence[str],
    keep_outputs: bool = False,
) -> bytes:
    """The model serialized with ``nodes`` and ``constants`` added and ``outputs`` as its outputs; the model is unchanged."""
    proto, stored = _apart(model)
    graph = proto.graph
    graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items())
    for node in nodes:
        added = onnx.helper.make_node(node.op_type, node.inputs, node.outputs, node.name or None, domain=node.domain or None)
        added.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in node.attributes.items())
        graph.node.append(added)
    kept = [item.name for item in graph.output] if keep_outputs else []
    known = {item.name: item for item in graph.output}
    known.update({item.name: item for item in graph.input})
    known.update({item.name: item for item in graph.value_info})
    wanted = [known.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys([*kept, *outputs])]
    copies = [onnx.ValueInfoProto.FromString(item.SerializeToString()) for item in wanted]
    del graph.output[:]
    graph.output.extend(copies)
    message = BytesIO()
    message.write(proto.SerializeToString(deterministic=True))
    for (
        name,
        tensor,
    ) in stored.items():  # messages written one after the other are one message, and no two copies of all weights exist
        part = onnx.ModelProto()
        part.graph.initializer.append(ir.to_proto(tensor))
        part.graph.initializer[0].name = name  # a tensor that was lifted from a node may have another one
        embed_external_data(part)
        message.write(part.SerializeToString(deterministic=True))
    return message.getvalue()


def _apart(model: Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The model without the initializers of its main graph, and those by name."""
    content = model.ir.clone()
    initializers = content.graph.initializers
    stored = {name: value.const_value for name, value in initializers.items() if value.const_value is not None}
    content.graph.initializers.clear()
    return Model(content, model.path).to_proto(), stored


def stored_tensors(content: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor stored in the model: initializers and tensor attributes of all graphs and functions."""
    for graph in content.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        yield from _attribute_tensors(graph)
    for function in content.functions.values():
        yield from _attribute_tensors(function)


def _attribute_tensors(graph: ir.Graph | ir.Function) -> Iterator[ir.TensorProtocol]:
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.as_tensors()


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
