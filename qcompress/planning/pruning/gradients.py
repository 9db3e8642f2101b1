"""Gradients of the model's own answers with respect to its weights, for the criteria that look at them."""

from __future__ import annotations

from collections.abc import Sequence

from qcompress.operators import Layer
from qcompress.planning.pruning.sparsity import Gradients
from qcompress.planning.work import Workplace
from qcompress.prune import CRITERIA
from qcompress.types import Criterion


def weigh_gradients(work: Workplace, layers: Sequence[Layer], criterion: Criterion) -> tuple[Gradients, tuple[str, ...]]:
    """The root mean square gradient of each layer's weight where the criterion wants it, and which layers it does not reach."""
    if not CRITERIA[criterion].gradient:
        return {}, ()
    raise NotImplementedError
