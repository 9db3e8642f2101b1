"""What is done to one weight on the walk through the model: numbers pruned, the others solved again, biases shifted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from qcompress.operators import Layer
from qcompress.planning.means import bias_node, mean_shift
from qcompress.planning.readings import Readings, readings_of
from qcompress.planning.walk import Settled, Shifts
from qcompress.prune import CRITERIA
from qcompress.quantize import Evidence, Gram
from qcompress.quantize.align import Drift, align
from qcompress.types import Array, FloatScheme, NarrowTensor, Prune

EXACT = FloatScheme("float32")

HALVES = ("float16", "bfloat16")

Shrink = Callable[[Array, Evidence], Array]
"""(weight, what is known of its inputs) -> the weight with zeros in it, float32."""


@dataclass(frozen=True, slots=True)
class PruneTask:
    """One weight to prune; ``shrink`` says how. Without ``compensate`` inputs that have moved are not made up for either.

    ``looks``: whether ``shrink`` looks at what is known of the inputs.
    """

    layer: Layer
    uses: Readings
    shrink: Shrink
    compensate: bool = True
    looks: bool = True

    @property
    def is_fitted(self) -> bool:
        """Always: every task prunes."""
        return True

    @property
    def wants_gram(self) -> bool:
        """Whether correlations of the inputs are of use and can be had."""
        return (self.compensate or self.looks) and bool(self.uses.nodes)

    def settle(self, gram: Gram | None, drift: Drift | None) -> Settled:
        """Prune; what that takes from the mean of each output is given back by the bias, where there can be one."""
        weight = self.layer.array
        holds = bias_node(self.layer, self.uses) if gram is not None else None
        centered = holds is not None and gram is not None
        seen = gram.centered() if centered and gram is not None else gram
        evidence = Evidence(self.uses.layout, self.uses.groups, seen)
        aimed = weight
        if self.compensate and drift is not None and gram is not None and len(self.uses.nodes) == len(self.layer.uses):
            aimed = align(weight, evidence, drift.centered(gram) if centered else drift)
        pruned = self.shrink(aimed, evidence)
        if self.layer.stored_dtype in HALVES:  # it is stored in this type again
            pruned = np.asarray(pruned).astype(FloatScheme(self.layer.stored_dtype).storage).astype(np.float32)
        shifts: Shifts = {}
        if gram is not None and holds is not None and self.compensate:
            shifts = mean_shift(holds, weight, pruned, self.uses, gram, drift)
        return Settled(NarrowTensor(np.asarray(pruned, dtype=np.float32), EXACT), shifts)


def prune_task(layer: Layer, prune: Prune, shrink: Shrink) -> PruneTask:
    """The task of a weight that is pruned as ``prune`` says."""
    return PruneTask(layer, readings_of(layer), shrink, prune.compensate, bool(CRITERIA[prune.criterion].needs))


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Survey(Generic[Key]):
    """One weight pruned in several ways on the float model's own tensors; ``found``, way -> weight, fills up on the walk."""

    name: str
    variants: Mapping[Key, PruneTask]
    found: dict[Key, dict[str, Settled]]

    @property
    def uses(self) -> Readings:
        """As those of each variant."""
        return next(iter(self.variants.values())).uses

    @property
    def is_fitted(self) -> bool:
        """Always."""
        return True

    @property
    def wants_gram(self) -> bool:
        """As each variant."""
        return next(iter(self.variants.values())).wants_gram

    def settle(self, gram: Gram | None, drift: Drift | None) -> Settled:
        """Settle every variant; the last stands for all."""
        for key, task in self.variants.items():
            settled = task.settle(gram, drift)
            self.found.setdefault(key, {})[self.name] = settled
        return settled
