"""Weights for the inputs that a layer really gets: what makes up for the errors of the layers before it.

A layer with weight W was trained on inputs x and gets x'. The weight V = W + E that changes its outputs least minimises

    E|W x - V x'|^2 = const - 2 tr(E D W^T) + tr(E H E^T)      H = E[x' x'^T],  D = E[x' (x - x')^T]

whose solution is E = W D^T H^-1; from few rows it is pulled towards 0 with H + ridge * diag(H).

Source: Li et al., GPTAQ, ICML 2025, arXiv:2504.02692, section 3, the asymmetric objective; solved here for the weight that is
then rounded, with the ridge picked on held-out samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompress.quantize.evidence import Evidence, Gram, Means, around
from qcompress.quantize.layouts import from_rows, to_rows
from qcompress.types import Array

RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""What is tried, in shares of the diagonal."""

_RARE = 0.01
"""Share of the mean second moment that the ridge sees in every input at least: one that is hardly ever active would get weights of
any size (66 where the largest was 0.4), and one scale for a channel does not reach that far."""

_SAMPLED = 64
"""Outputs of each group that the ridge is picked on, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """What a tensor that is added to a layer's outputs lacks: r = exact - changed, over the rows of a Gram matrix of x'.

    ``fit`` and ``held``: (groups, inputs, outputs), float64, E[x' r^T]. ``means``: of r, (groups, outputs).
    """

    fit: Array
    held: Array
    means: Means

    def centered(self, inputs: Means) -> Beside | None:
        """The same around the means of the rows to fit, ``inputs`` being those of x'."""
        if inputs.held is None or self.means.held is None:
            return None
        centres = (inputs.fit, self.means.fit)
        held = around(self.held, (inputs.held, self.means.held), centres)
        return Beside(around(self.fit, centres, centres), held, self.means)


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """How far a layer's inputs have moved: E[x' (x - x')^T] over the same rows as a Gram matrix of x'.

    ``fit`` and ``held``: (groups, inputs, inputs), float64; rows of the matrix are x'. ``means``: of x - x'. ``beside``: what a
    tensor lacks that is added to the outputs.
    """

    fit: Array
    held: Array
    means: Means | None = None
    beside: Beside | None = None

    def centered(self, gram: Gram) -> Drift:
        """The same around the means of the rows to fit, ``gram`` being that of x'."""
        if self.means is None or self.means.held is None or gram.means is None or gram.means.held is None:
            return self
        centres = (gram.means.fit, self.means.fit)
        fit = around(self.fit, centres, centres)
        beside = None if self.beside is None else self.beside.centered(gram.means)
        return Drift(fit, around(self.held, (gram.means.held, self.means.held), centres), beside=beside)

    def middle(self, gram: Gram) -> Array:
        """(groups, inputs), the mean of x - x' over all rows; 0 where it is not known."""
        if self.means is None or self.means.held is None:
            return np.zeros(self.fit.shape[:2])
        return _pooled(self.means, gram)

    def lacking(self, gram: Gram) -> Array | None:
        """(groups, outputs), the mean of what is lacking beside the outputs; None where it is not known."""
        return None if self.beside is None or self.beside.means.held is None else _pooled(self.beside.means, gram)


def align(weight: Array, evidence: Evidence, drift: Drift) -> Array:
    """The weight that makes, from the inputs a layer gets, nearest to what it made from those it should have got.

    Args:
        weight: any shape that fits the layout.
        evidence: with the Gram matrix of the inputs it gets, held-out samples included.
        drift: of the same rows.

    Returns:
        The changed weight, float32; the same where no change makes the error on held-out samples smaller.
    """
    gram = evidence.gram
    if gram is None or gram.held is None:
        return weight
    rows = to_rows(np.asarray(weight, dtype=np.float64), evidence.layout, evidence.groups)
    missing = _missing(rows, drift)
    step = -(-rows.shape[1] // _SAMPLED)
    best = _pick(missing[0][:, ::step], missing[1][:, ::step], gram)
    if best is None:
        return weight
    share = gram.held_rows / max(gram.rows + gram.held_rows, 1)
    change = _change(missing[0] * (1.0 - share) + missing[1] * share, gram.pooled, best)
    return np.asarray(from_rows(rows + change, weight.shape, evidence.layout, evidence.groups), dtype=np.float32)


def _pick(missing: Array, missing_held: Array, gram: Gram) -> float | None:
    """The ridge of least held-out error, found by going downhill; None where no change makes it smaller."""
    errors: dict[int, float] = {}

    def error(index: int) -> float:
        if index not in errors:
            change = _change(missing, gram.fit, RIDGES[index])
            errors[index] = float(np.sum(change * (change @ gram.held - 2.0 * missing_held)))
        return errors[index]

    best = len(RIDGES) // 2
    for direction in (-1, 1):
        while 0 <= best + direction < len(RIDGES) and error(best + direction) < error(best):
            best += direction
    return RIDGES[best] if error(best) < 0.0 else None


def _change(missing: Array, gram: Array, ridge: float) -> Array:
    """W D^T (H + ridge diag(H))^-1, (groups, outputs, inputs)."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    least = np.maximum(1e-8 * diagonal.mean(axis=1, keepdims=True), 1e-30)
    index = np.arange(gram.shape[1])
    damped = gram.copy()
    damped[:, index, index] += np.maximum(ridge * (diagonal + _RARE * diagonal.mean(axis=1, keepdims=True)), least)
    solved: Array = np.linalg.solve(damped, np.swapaxes(missing, 1, 2))
    return np.swapaxes(solved, 1, 2)


def _missing(rows: Array, drift: Drift) -> tuple[Array, Array]:
    """W D^T + R^T: what of each output is lacking, as far as it goes with the inputs; over rows to fit and over held-out ones."""
    found = [rows @ np.swapaxes(matrix, 1, 2) for matrix in (drift.fit, drift.held)]
    if drift.beside is not None and drift.beside.fit.shape[2] == rows.shape[1]:
        both = (drift.beside.fit, drift.beside.held)
        found = [lacking + np.swapaxes(beside, 1, 2) for lacking, beside in zip(found, both, strict=True)]
    return found[0], found[1]


def _pooled(means: Means, gram: Gram) -> Array:
    share = gram.held_rows / max(gram.rows + gram.held_rows, 1)
    return np.asarray(means.fit * (1.0 - share) + (0.0 if means.held is None else means.held * share))
