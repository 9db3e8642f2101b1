"""What a source is opened with."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.data.options import DataOptions
from qcompress.errors import DataError
from qcompress.types import TensorSignature


@dataclass(frozen=True, slots=True)
class Request:
    """The user's words, the model's inputs and how to read; ``output_names`` may be in the data and are not inputs."""

    spec: str
    signature: tuple[TensorSignature, ...]
    options: DataOptions
    output_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The model's inputs in order."""
        return tuple(item.name for item in self.signature)

    def only_input(self, why: str, hint: str) -> TensorSignature:
        """The input of a single-input model.

        Raises:
            DataError: the model has another number of inputs; ``why`` and ``hint`` are its text.
        """
        if len(self.signature) != 1:
            raise DataError(f"{why}, but the model has the inputs {', '.join(self.names)}", hint)
        return self.signature[0]
