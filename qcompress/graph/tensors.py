"""Tensors that lie in files: read by mapping, and large new ones moved out of memory."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import onnx_ir as ir

from qcompress.errors import OutputError
from qcompress.types import ROOT, Array

IN_MEMORY = 1 << 16
"""Bytes up to which a tensor is kept in memory; larger ones stay in the file they come from or go to a temporary one."""


class SpilledTensor(ir.ExternalTensor):
    """A tensor in a temporary file that is removed with it."""

    def __init__(self, path: Path, tensor: ir.TensorProtocol) -> None:
        shape = ir.Shape(tensor.shape.numpy())
        super().__init__(path, 0, tensor.nbytes, tensor.dtype, shape=shape, name=tensor.name or "")
        weakref.finalize(self, _remove, path)


def make_tensor(array: Array, name: str | None) -> ir.TensorProtocol:
    """A tensor holding ``array``; a large one lies in a temporary file, so that a model in the making needs little memory.

    Raises:
        OutputError: the folder for temporary files is full.
    """
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    return tensor if tensor.nbytes <= IN_MEMORY else SpilledTensor(_write_temporary(tensor), tensor)


def spilled(array: Array) -> Array:
    """The same values mapped from a temporary file that is removed with the array; small arrays stay what they are.

    Raises:
        OutputError: the folder for temporary files is full.
    """
    if array.nbytes <= IN_MEMORY:
        return array
    path = _write_temporary(ir.tensor(np.asarray(array, order="C")))
    mapped = np.memmap(path, array.dtype, "r", 0, array.shape)
    weakref.finalize(mapped, _remove, path)
    return mapped


def mapped_tensor(array: Array, name: str) -> ir.ExternalTensor | None:
    """A tensor in the file that a whole ``spilled`` array is mapped from, None for an array in memory."""
    if not isinstance(array, np.memmap) or array.filename is None or not isinstance(array.base, mmap.mmap):
        return None
    shape, dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    return ir.ExternalTensor(array.filename, array.offset, array.nbytes, dtype, shape=shape, name=name)


def tensor_array(tensor: ir.TensorProtocol) -> Array:
    """The values of a tensor; those that lie in a file are mapped for as long as the array is used."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8 or tensor.size == 0:
        return tensor.numpy()
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    mapped = np.memmap(tensor.path, dtype, "r", tensor.offset or 0, (tensor.size,))
    return np.asarray(mapped).reshape(tensor.shape.numpy())


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


def location_from_root(tensor: ir.TensorProtocol) -> str | None:
    """Where a tensor's file lies, seen from ROOT; None for a tensor in memory or on another drive."""
    if not isinstance(tensor, ir.ExternalTensor):
        return None
    path = Path(tensor.path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else None


def write_tensor(tensor: ir.TensorProtocol, file: IO[bytes]) -> None:
    """Write the bytes of a tensor to an open file."""
    if hasattr(tensor, "tofile"):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())


def _write_temporary(tensor: ir.TensorProtocol) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix="qcompress-", suffix=".weight")
        try:
            with os.fdopen(handle, "wb") as file:
                write_tensor(tensor, file)
        except OSError:
            _remove(Path(name))
            raise
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: a weight cannot be written there: {error.strerror}",
            "make room, or set TMPDIR to another folder",
        ) from error
    return Path(name)


def _remove(path: Path) -> None:
    with suppress(OSError):  # a system that keeps files which are mapped; its temporary folder is cleaned in time
        path.unlink(missing_ok=True)
