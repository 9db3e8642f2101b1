"""Codes and scales that make up for each other's errors: GPTQ, coordinate descent and scales refitted, column by column.

All three lower the squared error of a layer's outputs,

    tr((Q - W) H (Q - W)^T)        H = E[x x^T]

and all three visit the inputs one after the other, keep a residual up to date, and add what they changed to it: inside a run of
inputs at once, for the rest as one product of matrices at the run's end. Arrays are (groups, inputs, outputs).

Source: Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323, section 3.3 (order, lazy updates of 128 columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qcompress.quantize.affine import LEAST_SCALE
from qcompress.types import Array

# Inputs whose residuals are updated at once; measured fastest of 16 to 128 for a product of 1,280 inputs and 320 outputs.
RUN = 32


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The values that weights may take: scale * unit.

    ``segments``: (inputs,), ascending, which scale of its row an input belongs to. ``owners``: (groups, outputs), outputs with the
    same number share scales. ``low`` and ``high``: (segments, groups, outputs), smallest and largest unit of integer codes,
    units being code - zero_point. ``levels``: (entries,), ascending, the units of a codebook, which has no ``low`` and ``high``.
    ``kept``: (inputs, groups, outputs), False where a weight is pruned and its unit is 0 whatever happens; None: all are free.
    """

    segments: Array
    owners: Array
    low: Array
    high: Array
    levels: Array | None = None
    kept: Array | None = None

    def nearest(self, quotients: Array, column: int) -> Array:
        """The units nearest to values / scale of one input, (groups, outputs)."""
        if self.levels is not None:
            units = self.levels[np.searchsorted(0.5 * (self.levels[1:] + self.levels[:-1]), quotients)]
        else:
            segment = self.segments[column]
            units = np.rint(quotients)
            np.maximum(units, self.low[segment], out=units)
            np.minimum(units, self.high[segment], out=units)
        if self.kept is not None:
            units *= self.kept[column]
        return units


@dataclass(slots=True, eq=False)
class Rounded:
    """Weights, the units chosen for them and their scales; the functions below change ``units`` and ``scale`` in place.

    ``target`` and ``units``: (groups, inputs, outputs), float64. ``scale``: (segments, groups, outputs), float64.
    """

    target: Array
    units: Array
    scale: Array
    grid: Grid

    def values(self) -> Array:
        """What the units stand for, (groups, inputs, outputs)."""
        return np.asarray(self.units * self.scale[self.grid.segments].swapaxes(0, 1))

    def error(self, hessian: Array) -> float:
        """tr((Q - W) H (Q - W)^T), summed over groups."""
        difference = self.values() - self.target
        return float(np.vdot(difference, hessian @ difference))

    def copy(self) -> Rounded:
        """One whose units and scales change on their own."""
        return Rounded(self.target, self.units.copy(), self.scale.copy(), self.grid)


def gptq(state: Rounded, hessian: Array) -> None:
    """Round input by input, largest second moment first, each making up for the errors of those before it.

    With H = (U + 1) D (U + 1)^T, U strictly upper triangular, input k is rounded to the value nearest to

        w_k + sum_{j < k} (w_j - q_j) U_jk

    which is what pushing errors on by the Cholesky factor of the inverse does, without the inverse.

    Args:
        state: its scales stay as they are.
        hessian: (groups, inputs, inputs), positive definite.

    Source: Frantar et al., GPTQ, ICLR 2023, arXiv:2210.17323, algorithm 1; in this form Chee et al., QuIP, NeurIPS 2023,
    arXiv:2307.13304, equation 2, and theorem 6, that both are the same.
    """
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    order = np.argsort(-(diagonal / diagonal.mean(axis=1, keepdims=True)).sum(axis=0), kind="stable")
    backwards = order[::-1]
    factor = np.linalg.cholesky(hessian[:, backwards[:, None], backwards])[:, ::-1, ::-1]
    factor /= np.diagonal(factor, axis1=1, axis2=2)[:, None, :].copy()
    residual = np.zeros_like(state.target)

    def step(columns: slice, error: Array) -> Array:
        column = int(order[columns.start])
        scale = state.scale[state.grid.segments[column]]
        weight = state.target[:, column]
        units = state.grid.nearest((weight + error[:, 0]) / scale, column)
        state.units[:, column] = units
        return np.asarray(weight - units * scale)[:, None]

    _sweep(factor, _single(len(order)), residual, step, forward=True)


def descend(state: Rounded, hessian: Array, sweeps: int) -> None:
    """Give each input in turn the code that is best as long as all others stay.

        q_k = nearest(q_k - R_k / H_kk)        R = H (Q - W)

    The error falls or stays with every step.

    Args:
        state: its scales stay as they are.
        hessian: (groups, inputs, inputs), symmetric with a positive diagonal.
        sweeps: times that all inputs are visited; ends early when nothing changes any more.

    Source: Behdin et al., QuantEase, arXiv:2309.01885, section 3.
    """
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    changed = False

    def step(columns: slice, error: Array) -> Array:
        nonlocal changed
        column = columns.start
        scale = state.scale[state.grid.segments[column]]
        old = state.units[:, column]
        units = state.grid.nearest(old - error[:, 0] / (diagonal[:, column, None] * scale), column)
        change = np.asarray(units - old)
        changed = changed or bool(change.any())
        state.units[:, column] = units
        return np.asarray(change * scale)[:, None]

    for _ in range(sweeps):
        changed = False
        _sweep(hessian, _single(hessian.shape[1]), hessian @ (state.values() - state.target), step)
        if not changed:
            return


def refit_scales(state: Rounded, hessian: Array, sweeps: int = 1) -> None:
    """Give each scale in turn the value that is best as long as the codes and all other scales stay.

        s = s - sum a R / sum a (H a)        a: the units of the weights that share s, R = H (Q - W)

    which is least squares, solved by Gauss and Seidel's iteration. Scales are float32 and stay positive: one that would not is left.

    Args:
        state: its units stay as they are.
        hessian: (groups, inputs, inputs), symmetric.
        sweeps: times that all scales are visited.

    Source: Zhang et al., COMQ, arXiv:2403.07134, scales and codes as coordinates of one error.
    """
    owners, count = state.grid.owners, int(state.grid.owners.max()) + 1

    def shared(values: Array) -> Array:
        return np.asarray(np.bincount(owners.ravel(), values.ravel(), count)[owners])

    def step(columns: slice, error: Array) -> Array:
        segment = state.grid.segments[columns.start]
        units, old = state.units[:, columns], state.scale[segment]
        slope = shared(np.einsum("gkn,gkn->gn", units, error))
        curvature = shared(np.einsum("gkn,gkn->gn", units, hessian[:, columns, columns] @ units))
        with np.errstate(over="ignore"):
            scale = (old - slope / np.where(curvature > 0.0, curvature, 1.0)).astype(np.float32).astype(np.float64)
        usable = (curvature > 0.0) & (scale >= LEAST_SCALE) & np.isfinite(scale)
        moved = np.where(usable, scale - old, 0.0)
        state.scale[segment] = old + moved
        return np.asarray(units * moved[:, None])

    for _ in range(sweeps):
        _sweep(hessian, _segments(state.grid.segments), hessian @ (state.values() - state.target), step)


Step = Callable[[slice, Array], Array]


def _sweep(matrix: Array, columns: Sequence[slice], residual: Array, step: Step, forward: bool = False) -> None:
    """Visit columns; ``step`` gets a slice of inputs and their residual and returns the change of their values.

    A change of input j changes the residual of input i by matrix[j, i], with ``forward`` only that of inputs to come.
    """
    for run in _runs(columns):
        start, stop = run[0].start, run[-1].stop
        local = residual[:, start:stop]
        changes = np.empty_like(local)
        for column in run:
            inner = slice(column.start - start, column.stop - start)
            change = changes[:, inner] = step(column, local[:, inner])
            rest = slice(inner.stop, None) if forward else slice(None)
            influence = matrix[:, column, start:stop][:, :, rest]
            if column.stop - column.start == 1:
                local[:, rest] += influence[:, 0, :, None] * change
            else:
                local[:, rest] += influence.swapaxes(1, 2) @ change
        residual[:, stop:] += matrix[:, start:stop, stop:].swapaxes(1, 2) @ changes
        if not forward:
            residual[:, :start] += matrix[:, start:stop, :start].swapaxes(1, 2) @ changes


def _runs(columns: Sequence[slice]) -> Iterator[Sequence[slice]]:
    """Neighbouring columns that span about ``RUN`` inputs together."""
    first = 0
    for index in range(1, len(columns) + 1):
        if index == len(columns) or columns[index].stop - columns[first].start > RUN:
            yield columns[first:index]
            first = index


def _single(count: int) -> list[slice]:
    return [slice(index, index + 1) for index in range(count)]


def _segments(segments: Array) -> list[slice]:
    starts = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(segments)]
    return [slice(start, stop) for start, stop in pairwise(starts)]
