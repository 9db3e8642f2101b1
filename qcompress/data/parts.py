"""Cut data so that nothing is chosen on what was fitted, or scored on what was fitted or chosen on."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.data.dataset import Dataset
from qcompress.errors import DataError

LEAST_SAMPLES = 4
"""With fewer samples than this nothing is held out."""


@dataclass(frozen=True, slots=True)
class Parts:
    """``fit``: calibrated on. ``choose``: held out, decides between candidates. ``report``: held out, seen by nobody."""

    fit: Dataset
    choose: Dataset | None
    report: Dataset | None


def cut(dataset: Dataset, held_out: float, seed: int) -> Parts:
    """Hold out a share of the data, half of it to choose with and half to report on.

    Whether there is other data to evaluate on makes no difference, so a plan does not depend on it.

    Args:
        dataset: the calibration data.
        held_out: share, between 0 and 1.
        seed: of the random choice of samples.
    """
    if held_out <= 0.0 or (dataset.samples is not None and dataset.samples < LEAST_SAMPLES):
        return Parts(dataset, None, None)
    try:
        fit, held = dataset.split(held_out, seed)
    except DataError:  # one feed, however many samples it holds; other trouble shows again when the data is read
        return Parts(dataset, None, None)
    try:
        choose, report = held.split(0.5, seed)
    except DataError:  # one sample, or one feed of several
        return Parts(fit, None, held)
    return Parts(fit, choose, report)
