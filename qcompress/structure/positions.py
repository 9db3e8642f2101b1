"""Positions along axes of tensors, and which of them can only go together: ties, blocks and connected components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qcompress.graph import Value
from qcompress.types import Array

At = tuple[Value, int]
"""An axis of a tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """What hangs together.

    ``labels``: position -> the lowest position of its component. ``reasons``: label -> why the component must stay.
    """

    labels: Array
    reasons: Mapping[int, str]

    def blocked(self) -> Array:
        """(positions,), bool: whether each must stay."""
        found = np.zeros(len(self.labels), bool)
        found[list(self.reasons)] = True
        return np.asarray(found[self.labels])


class Positions:
    """The positions of all axes that matter, numbered as they are met; equal ones and forbidden ones are written down.

    An axis that is blocked as a whole passes that on at once, and costs nothing further: most axes (batch, image, sequence)
    come from a model input.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._starts: dict[At, int] = {}
        self._count = 0
        self._ties: list[tuple[Array, Array]] = []
        self._blocks: list[tuple[Array, str]] = []
        self._whole: dict[At, str] = {}

    def shape(self, value: Value) -> tuple[int, ...] | None:
        """The shape of a tensor, None when it is not known."""
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return self._shapes.get(value.name or "")

    def rank(self, value: Value) -> int:
        """How many axes a tensor has."""
        return len(self._known(value))

    def size(self, at: At) -> int:
        """How many positions an axis has."""
        value, axis = at
        return self._known(value)[axis]

    def tie(self, one: At, other: At, of_one: Array | None = None, of_other: Array | None = None) -> None:
        """Let positions of two axes go together, one by one: all, or those at the indices ``of_one`` and ``of_other``."""
        one, other = self._plain(one), self._plain(other)
        if one in self._whole:
            self.block(other, self._whole[one], of_other)
        elif other in self._whole:
            self.block(one, self._whole[other], of_one)
        else:
            self._ties.append((self._chosen(one, of_one), self._chosen(other, of_other)))

    def block(self, at: At, reason: str, of: Array | None = None) -> None:
        """Let all positions of an axis, or some, stay."""
        at = self._plain(at)
        if of is None and at not in self._whole:
            self._whole[at] = reason
            if at in self._starts:
                self._blocks.append((self.ids(at), reason))
        elif of is not None and at not in self._whole:
            self._blocks.append((self._chosen(at, of), reason))

    def block_tensor(self, value: Value, reason: str) -> None:
        """Let all axes of a tensor stay as they are."""
        for axis in range(len(self.shape(value) or ())):
            self.block((value, axis), reason)

    def why_blocked(self, at: At) -> str:
        """Why the whole axis is known to stay by now, empty when it is not."""
        return self._whole.get(self._plain(at), "")

    def ids(self, at: At) -> Array:
        """The numbers of the positions of an axis."""
        at = self._plain(at)
        if at not in self._starts:
            self._starts[at] = self._count
            self._count += self.size(at)
            if at in self._whole:
                self._blocks.append((self.ids(at), self._whole[at]))
        start = self._starts[at]
        return np.arange(start, start + self.size(at))

    def met(self) -> Iterator[At]:
        """The axes that have numbers."""
        yield from self._starts

    def components(self) -> Components:
        """What hangs together by now; the first reason of each component is kept."""
        labels = _connected(self._count, self._ties)
        reasons: dict[int, str] = {}
        for ids, reason in self._blocks:
            for label in np.unique(labels[ids]).tolist():
                reasons.setdefault(label, reason)
        return Components(labels, reasons)

    def _known(self, value: Value) -> tuple[int, ...]:
        shape = self.shape(value)
        if shape is None:
            raise KeyError(f"the shape of {value.name!r} is not known")
        return shape

    def _plain(self, at: At) -> At:
        value, axis = at
        return value, axis % self.rank(value)

    def _chosen(self, at: At, of: Array | None) -> Array:
        ids = self.ids(at)
        return ids if of is None else np.asarray(ids[of])


def _connected(count: int, ties: list[tuple[Array, Array]]) -> Array:
    """(count,): the lowest number of every number's component; higher labels are hooked to lower ones until none is left."""
    labels = np.arange(count)
    if not ties:
        return labels
    ones, others = np.concatenate([tie[0] for tie in ties]), np.concatenate([tie[1] for tie in ties])
    while True:
        one, other = labels[ones], labels[others]
        apart = one != other
        if not apart.any():
            return labels
        ones, others, one, other = ones[apart], others[apart], one[apart], other[apart]
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter
