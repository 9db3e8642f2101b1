"""Evaluation data in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcompress.data import Batch
from qcompress.types import Array


@dataclass(frozen=True)
class Batches:
    """Arrays in memory as evaluation data: one feed of ``x`` a batch."""

    feeds: tuple[Array, ...]
    labels: tuple[Array, ...] | None = None
    source: str = "memory"
    samples: int | None = None

    def batches(self) -> Iterator[Batch]:
        for index, feed in enumerate(self.feeds):
            yield Batch({"x": feed}, None if self.labels is None else self.labels[index], len(feed))
