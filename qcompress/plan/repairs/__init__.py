"""What can make a harmful layer less harmful without giving up its speed, one file per way."""

from qcompress.plan.repairs.equalization import equalization
from qcompress.plan.repairs.proposal import Evidence, Proposer, Repair, rescaled_range
from qcompress.plan.repairs.ranges import other_ranges
from qcompress.plan.repairs.smoothing import smoothing

REPAIRS: dict[str, Proposer] = {
    "smoothing": smoothing,
    "equalization": equalization,
    "range method": other_ranges,
}
"""Every repair, in the order they are worth trying."""

__all__ = ["REPAIRS", "Evidence", "Proposer", "Repair", "rescaled_range"]
