"""Tensors in protobuf files, as the ONNX test data stores them."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qcompress.errors import DataError
from qcompress.types import Array


def read_tensor(path: Path) -> tuple[str, Array]:
    """Read a serialized TensorProto.

    Returns:
        The tensor's name (may be empty) and its values.

    Raises:
        DataError: not a tensor, or one whose values lie in another file.
    """
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.UNDEFINED:
            raise ValueError("it is not a tensor with its values inside")
        array: Array = onnx.numpy_helper.to_array(tensor)
    except (DecodeError, OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        lines = str(error).splitlines()
        raise DataError(
            f"{path.parent.name}/{path.name} is not a readable ONNX tensor: {lines[0] if lines else type(error).__name__}",
            "write it with onnx.numpy_helper.from_array(array, name).SerializeToString()",
        ) from error
    return tensor.name, array
