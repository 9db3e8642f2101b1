"""External data of a model file: found, and refused when it leaves the model's folder or is too short."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import uses_external_data

from qcompress.errors import ModelError


def external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model whose bytes lie in another file, in all subgraphs and functions."""
    yield from _in_graph(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _in_node(node)


def external_location(tensor: onnx.TensorProto) -> str:
    """Where the tensor says its bytes are, relative to the model file."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def resolve_external_data(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Replace every location by the real path of a file that was checked to be safe and long enough; return the files.

    A link is followed when its end lies in the model's folder, or beside the real model file (as in caches that keep
    all files under their hash in one folder).

    Raises:
        ModelError: a location is absolute or leaves the folder, or the file is missing or too short.
    """
    folders = {path.parent.resolve(), path.resolve().parent}
    files: dict[str, Path] = {}
    for tensor in external_tensors(proto):
        location = external_location(tensor)
        if location not in files:
            files[location] = _safe_file(location, path, folders)
        _check_extent(tensor, files[location], path)
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(files[location])
    return sorted(set(files.values()))


def embed_external_data(proto: onnx.ModelProto) -> None:
    """Read the bytes of resolved external tensors into the message."""
    for tensor in external_tensors(proto):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        with Path(entries["location"]).open("rb") as file:
            file.seek(int(entries.get("offset", 0)))
            tensor.raw_data = file.read(int(entries["length"])) if "length" in entries else file.read()
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _safe_file(location: str, path: Path, folders: set[Path]) -> Path:
    hint = "external data must lie in the model's own folder"
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or "\\" in location:
        raise ModelError(f"{path}: external data at {location!r} leaves the model's folder", hint)
    try:
        real = (path.parent / location).resolve()
        found = real.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL in it, links in a circle
        raise ModelError(f"{path}: external data at {location[:100]!r} is not a usable file name", hint) from error
    if not any(real.is_relative_to(folder) for folder in folders):
        raise ModelError(f"{path}: external data {location!r} is a link that leaves the model's folder", hint)
    if not found:
        raise ModelError(f"{path}: external data file {location!r} is missing", f"put it beside {path.name}")
    return real


def _check_extent(tensor: onnx.TensorProto, file: Path, path: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError as error:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} has an unreadable external offset", "export the model again"
        ) from error
    if "length" not in entries:
        length = stored_bytes(tensor, path)
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise ModelError(
            f"{path}: external data file {file.name!r} is too short for tensor {tensor.name!r}",
            "it is truncated; copy it again",
        )


def stored_bytes(tensor: onnx.TensorProto, path: Path) -> int:
    """Bytes that the shape and the element type ask for.

    Raises:
        ModelError: there is no such type, or it has no width.
    """
    try:
        return math.ceil(math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth / 8)
    except (ValueError, TypeError) as error:  # no such element type, or one without a width
        raise ModelError(
            f"{path}: tensor {tensor.name!r} cannot have external data of its type", "export the model again"
        ) from error


def _in_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for tensor in graph.initializer:
        if uses_external_data(tensor):
            yield tensor
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        for tensor in (attribute.t, *attribute.tensors):
            if uses_external_data(tensor):
                yield tensor
        for graph in (attribute.g, *attribute.graphs):
            yield from _in_graph(graph)
