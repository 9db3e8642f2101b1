"""Models written: to a file by streaming, or as a message that leaves large weights in the files where they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from qcompress.errors import ModelError, OutputError
from qcompress.graph.model import Model
from qcompress.graph.writing import (
    constant_proto,
    embedded_bytes,
    fits_one_message,
    referring,
    write_embedded,
    write_external,
)
from qcompress.types import Array, NodeSpec


def save_model(model: Model, target: Path) -> None:
    """Write the model atomically: the target is either the whole new file or what it was before.

    Weights are copied one after the other from where they lie. When they are more than about 1.8 GB they go to
    ``<target>.data`` beside it; should the last step be interrupted then, there is no target rather than one that does not
    fit its data.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    data = target.with_name(f"{target.name}.data")
    part, data_part = _part(target), _part(data)
    try:
        if fits_one_message(model.ir):
            with part.open("wb") as file:
                write_embedded(model.ir, file)
            place_files({part: target})
        else:
            part.write_bytes(_bytes_of(write_external(model.ir, data_part, data.name), model))
            place_files({part: target, data_part: data})
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror}", "check the folder, its permissions and the space left"
        ) from error
    finally:
        part.unlink(missing_ok=True)
        data_part.unlink(missing_ok=True)


def saved_bytes(model: Model) -> int:
    """Bytes that ``save_model`` would write, the alignment of external data apart."""
    return embedded_bytes(model.ir)


def place_files(moves: Mapping[Path, Path]) -> None:
    """Move finished files to their places, the first of them (the model) last.

    A model that is there already goes first, when it comes with other files: at no time does one stand beside data of another.
    """
    (part, target), *others = moves.items()
    if any(place.exists() for _, place in others):
        target.unlink(missing_ok=True)
    for source, place in others:
        source.replace(place)
    part.replace(target)


def extend(
    model: Model,
    nodes: Sequence[NodeSpec],
    constants: Mapping[str, Array],
    outputs: Sequence[str],
    keep_outputs: bool = False,
) -> bytes:
    """The model serialized with ``nodes`` and ``constants`` added and ``outputs`` as its outputs; the model is unchanged.

    Weights that lie in files stay there, see ``message``; so do constants that are ``spilled``.
    """
    proto = referring(model.ir)
    graph = proto.graph
    graph.initializer.extend(constant_proto(name, array) for name, array in constants.items())
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
    return _bytes_of(proto, model)


def message(model: Model) -> bytes:
    """The model serialized for the runtime in this process: weights that lie in files are named by their place under ROOT.

    ``runtime.open_session`` finds them there; the model must be kept until then, since temporary files go with it.
    """
    return _bytes_of(referring(model.ir), model)


def _bytes_of(proto: onnx.ModelProto, model: Model) -> bytes:
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except Exception as error:  # EncodeError or ValueError, by the protobuf implementation
        raise ModelError(f"{model.path.name}: it does not fit into one message", "2 GiB is the limit") from error


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
