"""All outputs of a model kept whole, for a metric of the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcompress.data import Batch, Metric
from qcompress.types import Array


@dataclass(slots=True)
class OutputLog:
    """All outputs and labels, for a metric that needs them whole."""

    outputs: dict[str, list[tuple[Array, int]]] = field(default_factory=dict)
    labels: list[tuple[Array, int]] = field(default_factory=list)

    def add(self, outputs: Mapping[str, Array], batch: Batch) -> None:
        """Keep one batch."""
        for name, output in outputs.items():
            self.outputs.setdefault(name, []).append((output, batch.samples))
        if batch.labels is not None:
            self.labels.append((batch.labels, batch.samples))

    def score(self, metric: Metric) -> float:
        """The metric over everything kept."""
        joined = {name: _join(parts) for name, parts in self.outputs.items()}
        return float(metric(joined, _join(self.labels) if self.labels else None))


def _join(parts: list[tuple[Array, int]]) -> Array:
    """Batches along the first axis; where their shapes differ, an object array of samples (batches without that axis)."""
    arrays = [array for array, _ in parts]
    by_sample = all(array.ndim > 0 and len(array) == samples for array, samples in parts)
    if by_sample and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    pieces = [piece for array, _ in parts for piece in (array if by_sample else (array,))]
    joined = np.empty(len(pieces), object)
    for index, piece in enumerate(pieces):  # assigning the list whole would make numpy look for a common shape
        joined[index] = piece
    return joined
