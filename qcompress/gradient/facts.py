"""What is known of a model's tensors before it runs: element types, ranks, lengths of axes."""

from __future__ import annotations

from collections.abc import Mapping

from qcompress.errors import ModelError
from qcompress.graph import Model, extend
from qcompress.runtime import Optimization, SessionSettings, open_session
from qcompress.types import TensorSignature

Dims = tuple[int | str | None, ...]
"""Of each axis its length, or a name for it that is the same wherever the length is, or None."""

FLOATS = ("float32", "float64")


class Facts:
    """Element types and shapes of the tensors of the main graph by name."""

    def __init__(self, known: Mapping[str, TensorSignature]) -> None:
        self._known = known

    def dtype(self, name: str) -> str:
        """The element type, float32 where it is not known."""
        found = self._known.get(name)
        return "float32" if found is None or not found.dtype else found.dtype

    def dims(self, name: str) -> Dims | None:
        """What is known of the shape; None: not even its rank."""
        found = self._known.get(name)
        return None if found is None else found.shape

    def is_float(self, name: str) -> bool:
        """Whether gradients can flow through the tensor."""
        return self.dtype(name) in FLOATS


def observe_facts(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Facts:
    """What the runtime infers when it loads the model; nothing is run.

    ``shapes``: of tensors in one feed; they say the rank where the runtime does not, for lengths can differ between feeds.
    """
    names = [value.name for node in model.graph for value in node.outputs if value.name]
    known = {item.name: item for item in (*model.inputs, *_inferred(model, names))}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and not value.is_graph_input():
            dtype = _NAMES.get(tensor.dtype.name, tensor.dtype.name.lower())
            known[name] = TensorSignature(name, dtype, tuple(tensor.shape.numpy()))
    for name, shape in shapes.items():
        found = known.get(name)
        if found is None or found.shape is None:
            known[name] = TensorSignature(name, found.dtype if found else "", (None,) * len(shape))
    return Facts(known)


_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


def _inferred(model: Model, names: list[str]) -> tuple[TensorSignature, ...]:
    settings = SessionSettings(threads=1, optimization=Optimization.DISABLED)
    try:
        found = open_session(extend(model, [], {}, names), settings).outputs
    except ModelError:  # an optional value cannot be an output
        return ()
    return tuple(TensorSignature(item.name, item.dtype, item.shape or None) for item in found)  # () if it is not known
