"""What is known about the inputs of a weight: their second moments, or how they go together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from qcompress.errors import CalibrationError
from qcompress.quantize.layouts import Layout, importance_of
from qcompress.types import Array

CONSTANT = 1e-12
"""Share of E[x^2] below which a variance is rounding: the input is the same in every row."""


class Need(StrEnum):
    """A kind of evidence."""

    MOMENTS = "moments"
    """E[x_k^2] of every input."""
    GRAM = "gram"
    """E[x x^T] of all inputs of a group."""


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """The mean of each input over rows of samples to fit and over those of held-out samples; (groups, inputs), float64."""

    fit: Array
    held: Array | None


def around(moment: Array, means: tuple[Array, Array], centres: tuple[Array, Array]) -> Array:
    """E[(l - a) (r - b)^T] from E[l r^T], the means of l and r, and the centres a and b.

    Args:
        moment: (groups, inputs, inputs or outputs).
        means: (groups, inputs or outputs) each.
        centres: as the means.
    """
    (left, right), (a, b) = means, centres
    return np.asarray(
        moment - a[:, :, None] * right[:, None, :] - left[:, :, None] * b[:, None, :] + a[:, :, None] * b[:, None, :]
    )


@dataclass(frozen=True, slots=True, eq=False)
class Gram:
    """Correlations of a layer's inputs.

    ``fit`` and ``held``: (groups, inputs, inputs), float64, the mean of x x^T over the rows of samples to fit and over those of
    held-out samples, None when there are none. ``rows``: how many rows are in ``fit``. ``held_rows``: how many in ``held``; when
    known, what is decided on held-out samples is fitted once more on all. ``means``: of the same rows, where they are wanted.
    """

    fit: Array
    held: Array | None
    rows: int
    held_rows: int = 0
    means: Means | None = None

    def __post_init__(self) -> None:
        for matrix in (self.fit,) if self.held is None else (self.fit, self.held):
            if not np.isfinite(matrix).all():
                raise CalibrationError(
                    "inputs of a layer are NaN or infinite", "look for such values in the calibration data"
                )

    @property
    def judge(self) -> Array:
        """The matrix that decides between roundings: the held-out one where there is one."""
        return self.fit if self.held is None else self.held

    @property
    def pooled(self) -> Array:
        """(groups, inputs, inputs), the mean over all rows."""
        return self._mean(self.fit, self.held)

    @property
    def middle(self) -> Array:
        """(groups, inputs), the mean of each input over all rows; 0 where it is not known."""
        if self.means is None:
            return np.zeros(self.fit.shape[:2])
        return self._mean(self.means.fit, self.means.held)

    def centered(self) -> Gram:
        """The covariances: what errors cost when a bias makes up for their mean.

        Means of rows to fit and of held-out rows differ, so held-out rows are taken around the mean of those that were fitted.
        """
        if self.means is None:
            return self
        centre, held = self.means.fit, None
        if self.held is not None and self.means.held is not None:
            held = around(self.held, (self.means.held, self.means.held), (centre, centre))
        fit = around(self.fit, (centre, centre), (centre, centre))
        variances, moments = (np.diagonal(matrix, axis1=1, axis2=2) for matrix in (fit, self.fit))
        varies = variances > CONSTANT * moments
        return Gram(fit * varies[:, :, None] * varies[:, None, :], held, self.rows, self.held_rows)

    @property
    def moments(self) -> Array:
        """(groups, inputs), E[x^2] over all rows."""
        held = None if self.held is None else np.diagonal(self.held, axis1=1, axis2=2)
        return np.maximum(self._mean(np.diagonal(self.fit, axis1=1, axis2=2), held), 0.0)

    def _mean(self, fit: Array, held: Array | None) -> Array:
        if held is None or self.held_rows == 0:
            return fit
        share = self.held_rows / (self.rows + self.held_rows)
        return np.asarray(fit * (1.0 - share) + held * share)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Which axes of a weight are inputs, and what is known about them.

    ``importance``: E[x^2], broadcastable to the weight as ``search_clip`` takes it; taken from the Gram matrix when None.
    """

    layout: Layout
    groups: int = 1
    gram: Gram | None = None
    importance: Array | None = None

    def moments(self, shape: tuple[int, ...]) -> Array | None:
        """E[x^2], broadcastable to a weight of ``shape``; None when nothing is known."""
        if self.importance is not None or self.gram is None:
            return self.importance
        return importance_of(self.gram.moments, shape, self.layout, self.groups)
