"""Milliseconds of any assignment of forms, put together from those of the variants that were measured.

Every node computes in some arithmetic behind a layer of some arithmetic; every tensor is written and read by kernels of some
arithmetic. Where variants had the same node, or tensor, in the same surroundings, the mean of their measured times counts,
in which a variant weighs more the more it resembles the assignment as a whole: one that was measured is estimated as it was
measured. Where no variant had them, a border costs what quantizing and dequantizing that tensor took elsewhere, else what
its elements suggest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompress.decisions import Keep
from qcompress.graph import Model
from qcompress.operators import Layer
from qcompress.plan.anatomy import anatomy
from qcompress.plan.cost import CostTable, VariantCost
from qcompress.plan.placement import Placement, Shapes
from qcompress.plan.surroundings import CODES, FLOAT, Chart, Surroundings
from qcompress.types import Array, Form

_NEAR = 1e-6
"""Added to squared distances, which are at most 1: at a measured assignment its own times outweigh all others."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Milliseconds of a kernel that passes over a tensor once: ``call`` + ``element`` * elements."""

    call: float
    element: float

    def of(self, elements: Array) -> Array:
        """Milliseconds for tensors of so many elements."""
        return self.call + self.element * elements


def fit_rate(elements: Array, milliseconds: Array) -> Rate:
    """The line with the least relative error through measured points, neither part negative; zero without points."""
    known = (elements > 0) & (milliseconds > 0.0)
    elements, milliseconds = elements[known].astype(np.float64), milliseconds[known]
    if not len(elements):
        return Rate(0.0, 0.0)
    if np.ptp(elements) > 0:
        columns = np.stack([1.0 / milliseconds, elements / milliseconds], axis=1)  # (points, 2), in relative errors
        (call, element), *_ = np.linalg.lstsq(columns, np.ones(len(elements)), rcond=None)
        if call >= 0.0 and element >= 0.0:
            return Rate(float(call), float(element))
        if element < 0.0:
            return Rate(float(np.median(milliseconds)), 0.0)
    return Rate(0.0, float(np.median(milliseconds / elements)))


class Estimator:
    """Estimates for one model; what depends on the model and the measurements alone is computed once."""

    def __init__(self, model: Model, layers: Sequence[Layer], table: CostTable, shapes: Shapes) -> None:
        """``layers``: of the prepared model. ``shapes``: tensor -> shape at the sizes that were measured."""
        self.table = table
        self._chart = Chart(anatomy(model, layers), shapes)
        variants = list(table.variants.values())
        self._seen = [self._chart.surroundings(item.forms, item.integer_nodes, item.tensors) for item in variants]
        self._arithmetic = np.stack([seen.arithmetic for seen in self._seen])  # (variants, nodes)
        self._node_signs = np.stack([seen.node_signs for seen in self._seen])
        self._tensor_signs = np.stack([seen.tensor_signs for seen in self._seen])  # (variants, tensors)
        self._node_ms = np.stack([self._chart.of_nodes(item.charges.nodes) for item in variants])
        longest = self._node_ms.max(axis=0)
        self._weights = longest / max(float(longest.sum()), 1e-9)
        self._elsewhere = self._largest_by_arithmetic()
        self._fit_borders(variants)

    def milliseconds(self, chosen: Mapping[str, Form | Keep], placement: Placement) -> float:
        """Milliseconds of a run when the weights take the chosen forms and integers flow as in ``placement``."""
        nodes, borders = self._parts(self._surroundings(chosen, placement))
        return float(nodes.sum() + borders.sum())

    def parts(self, chosen: Mapping[str, Form | Keep], placement: Placement) -> tuple[dict[str, float], dict[str, float]]:
        """Node -> milliseconds, and tensor -> milliseconds at its border; together they are ``milliseconds``."""
        nodes, borders = self._parts(self._surroundings(chosen, placement))
        return (
            {name: float(ms) for name, ms in zip(self._chart.nodes, nodes, strict=True) if ms},
            {name: float(ms) for name, ms in zip(self._chart.tensors, borders, strict=True) if ms},
        )

    def _surroundings(self, chosen: Mapping[str, Form | Keep], placement: Placement) -> Surroundings:
        forms = {name: form.value for name, form in chosen.items() if isinstance(form, Form)}
        return self._chart.surroundings(forms, placement.nodes, placement.tensors)

    def _parts(self, seen: Surroundings) -> tuple[Array, Array]:
        """(nodes,) and (tensors,) milliseconds."""
        nearness = self._nearness(seen)
        nodes, known = _mean_of_equal(seen.node_signs, self._node_signs, self._node_ms, nearness)
        other = self._elsewhere[seen.arithmetic, np.arange(len(nodes))]
        borders, met = _mean_of_equal(seen.tensor_signs, self._tensor_signs, self._border_ms, nearness)
        return np.where(known, nodes, other), np.where(met, borders, self._unmet(seen))

    def _nearness(self, seen: Surroundings) -> Array:
        """(variants,): how much an assignment resembles each variant, by the share of time spent in another arithmetic."""
        distances = ((self._arithmetic != seen.arithmetic) * self._weights).sum(axis=1)
        nearness: Array = 1.0 / (distances**2 + _NEAR)
        return nearness

    def _largest_by_arithmetic(self) -> Array:
        """(arithmetics, nodes): the longest time of each node in that arithmetic, that in float where it was not measured.

        The longest, because a node that was fused into its neighbour in one variant took no time of its own there.
        """
        times = np.full((max(CODES.values()) + 1, len(self._chart.nodes)), np.nan)
        for arithmetic, ms in zip(self._arithmetic, self._node_ms, strict=True):
            columns = np.arange(len(ms))
            times[arithmetic, columns] = np.fmax(times[arithmetic, columns], ms)
        plain = np.where(np.isnan(times[FLOAT]), np.nan_to_num(times).max(axis=0), times[FLOAT])
        return np.where(np.isnan(times), plain, times)

    def _fit_borders(self, variants: Sequence[VariantCost]) -> None:
        """Milliseconds at every border in every variant, and of each conversion of each tensor."""
        chart, elements = self._chart, self._chart.elements
        kinds = ("quantize", "dequantize", "dynamic", "layout")
        ms = {kind: np.stack([chart.of_tensors(getattr(item.charges, kind)) for item in variants]) for kind in kinds}
        self._border_ms = np.sum(list(ms.values()), axis=0)  # (variants, tensors)
        ms["dequantize"] = ms["dequantize"] / np.maximum([seen.plain for seen in self._seen], 1)  # each reader has its own
        self._conversions = {kind: _measured_or_rate(ms[kind], elements) for kind in kinds[:3]}
        crossing = np.stack([seen.crossing for seen in self._seen])
        met = float((crossing * elements).sum())
        self._turning = elements * (float(ms["layout"][crossing].sum()) / met if met else 0.0)

    def _unmet(self, seen: Surroundings) -> Array:
        """(tensors,) milliseconds at borders in surroundings that no variant had."""
        parts = self._conversions
        cost = np.where(seen.crossing, self._turning, 0.0)
        cost += np.where((seen.static > 0) & ~seen.written, parts["quantize"], 0.0)
        cost += np.where(seen.written, parts["dequantize"] * (seen.plain + seen.dynamic), 0.0)
        cost += np.where(seen.dynamic > 0, parts["dynamic"], 0.0)
        untouched = ~seen.moved & (seen.static == 0)
        return np.where(untouched, cost + self._border_ms[0], cost)


def _mean_of_equal(signs: Array, measured: Array, ms: Array, nearness: Array) -> tuple[Array, Array]:
    """Mean over the variants with equal signs, the nearer the more, and whether there are any; (items,) each.

    Args:
        signs: (items,).
        measured: (variants, items), their signs.
        ms: (variants, items).
        nearness: (variants,).
    """
    shares = (measured == signs) * nearness[:, None]
    total = shares.sum(axis=0)
    return (shares * ms).sum(axis=0) / np.maximum(total, 1e-12), total > 0.0


def _measured_or_rate(ms: Array, elements: Array) -> Array:
    """(tensors,): the mean of a conversion's times where any variant has it, else by its elements; ``ms``: (variants, tensors)."""
    count = (ms > 0.0).sum(axis=0)
    rate = fit_rate(np.broadcast_to(elements, ms.shape)[ms > 0.0], ms[ms > 0.0])
    return np.where(count > 0, ms.sum(axis=0) / np.maximum(count, 1), rate.of(elements))
