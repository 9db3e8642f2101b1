"""Weights lose numbers: what each counts, which stay in which pattern, and survivors solved again, on numpy arrays alone."""

from qcompress.prune.compensate import compensate
from qcompress.prune.criteria import CRITERIA
from qcompress.prune.patterns import PATTERNS
from qcompress.prune.patterns.channels import without_indices, without_inputs
from qcompress.prune.prune import choose_mask, prune_weight, scores

__all__ = [
    "CRITERIA",
    "PATTERNS",
    "choose_mask",
    "compensate",
    "prune_weight",
    "scores",
    "without_indices",
    "without_inputs",
]
