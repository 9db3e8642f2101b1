"""Levels of codebooks: fitted to a histogram of numbers, or powers of two."""

from __future__ import annotations

import numpy as np

from qcompress.types import Array

BINS = 8192
"""Bins of a histogram; the means of their numbers are exact, so only the borders between levels are in steps of a bin."""

# Levels hardly move after so many iterations: 256 levels of a million weights lose 0.1 % of their error after the 30th.
_ITERATIONS = 50


def bins_of(numbers: Array) -> Array:
    """The bin of each number; bins are fine around 0 and wide where outliers are, for numbers with a mean square near 1."""
    squeezed = numbers / (1.0 + np.abs(numbers))  # (-1, 1)
    return np.minimum((0.5 * (squeezed + 1.0) * BINS).astype(np.intp), BINS - 1)


def _widths() -> Array:
    """The width of each bin, its middle taken for both ends."""
    middles = (np.arange(BINS) + 0.5) / BINS * 2.0 - 1.0
    return np.asarray(2.0 / BINS / np.square(1.0 - np.abs(middles)))


def start_levels(mass: Array, moment: Array, count: int) -> Array:
    """Levels as dense as the cube root of the numbers' density, which is best for many levels; the one nearest 0 is 0.

    Args:
        mass: (bins,), weight of the numbers in each bin of ``bins_of``.
        moment: (bins,), sum of weight * number.
        count: how many levels.

    Source: Panter and Dite, Proceedings of the IRE 39, 1951: density of levels for many of them.
    """
    filled = np.flatnonzero(mass > 0.0)
    if filled.size == 0:
        return np.zeros(count)
    density = np.cumsum(np.cbrt(mass[filled]) * np.cbrt(_widths()[filled]) ** 2)
    wanted = (np.arange(count) + 0.5) / count * density[-1]
    levels = np.sort((moment[filled] / mass[filled])[np.searchsorted(density, wanted)])
    levels[np.argmin(np.abs(levels))] = 0.0
    return levels


def lloyd(mass: Array, moment: Array, levels: Array) -> Array:
    """Move each level to the mean of the numbers nearest to it, again and again; the level 0 stays.

    Args:
        mass: (bins,), weight of the numbers in each bin.
        moment: (bins,), sum of weight * number.
        levels: (count,), ascending, one of them 0.

    Source: Lloyd, IEEE Transactions on Information Theory 28, 1982, method I.
    """
    filled = np.flatnonzero(mass > 0.0)
    means = moment[filled] / np.where(mass[filled] > 0.0, mass[filled], 1.0)
    masses, moments = (np.concatenate([[0.0], np.cumsum(values[filled])]) for values in (mass, moment))
    pinned = int(np.argmin(np.abs(levels)))
    for _ in range(_ITERATIONS):
        borders = np.concatenate([[0], np.searchsorted(means, _middles(levels)), [filled.size]])
        inside = np.diff(masses[borders])
        moved = np.where(inside > 0.0, np.diff(moments[borders]) / np.where(inside > 0.0, inside, 1.0), levels)
        moved[pinned] = 0.0
        moved = np.sort(moved)  # sums are not exact: neighbours of equal numbers may swap
        pinned = int(np.argmin(np.abs(moved)))
        if np.array_equal(moved, levels):
            break
        levels = moved
    return levels


def power_levels(bits: int) -> Array:
    """0 and powers of two of either sign, ascending: half the codes are positive, one less are negative.

    Exponents lie around 0, so that all 256 levels of 8 bits are normal float32: log4 has -16 .. -0.25, 0, 0.125 .. 16.

    Source: Miyashita et al., arXiv:1603.01025, section 3.
    """
    positive = 1 << (bits - 1)
    powers = 2.0 ** (np.arange(positive) - positive // 2 + 1)
    return np.concatenate([-powers[:0:-1], [0.0], powers])


def nearest_levels(levels: Array, numbers: Array) -> Array:
    """Indices of the levels nearest to numbers; of two as near the lower one."""
    return np.searchsorted(_middles(levels), numbers)


def _middles(levels: Array) -> Array:
    return np.asarray(0.5 * (levels[1:] + levels[:-1]))
