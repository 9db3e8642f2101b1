"""Gradients of the loss of a model's outputs, for the criteria that look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from qcompress.data.batch import Batch
from qcompress.gradient import BackwardSettings, ImportanceSettings, Kinds, channel_effects, weight_gradients
from qcompress.measure.loss import Likeness, Yardstick
from qcompress.operators import Layer
from qcompress.planning.make import loss_meter
from qcompress.planning.pruning.sparsity import Gradients
from qcompress.planning.work import Workplace
from qcompress.prune import CRITERIA
from qcompress.structure import ChannelGroup
from qcompress.types import Array, Criterion

MOST_FEEDS = 128
"""Feeds that gradients are taken on at most."""

JUDGING = 4
"""Feeds by which it is told whether an output is class scores."""


def weigh_gradients(work: Workplace, layers: Sequence[Layer], criterion: Criterion) -> tuple[Gradients, tuple[str, ...]]:
    """The root mean square gradient of each layer's weight where the criterion wants it, and which weights it does not reach.

    Raises:
        CalibrationError: a gradient is not finite.
    """
    if not CRITERIA[criterion].gradient or work.parts is None:
        return {}, ()
    batches = list(islice(work.parts.fit.batches(), MOST_FEEDS))
    kinds = kinds_of(work, batches)
    feeds, names = [batch.feed for batch in batches], [layer.name for layer in layers]
    with work.progress.stage("Taking gradients", None, "feeds"):
        found = weight_gradients(work.model, names, feeds, _settings(work, kinds), labels_of(batches, work, kinds))
    return found.rms, tuple(
        f"no gradient reaches {name}, which is not pruned: {why}" for name, why in found.unreached.items()
    )


def weigh_channels(work: Workplace, groups: Sequence[ChannelGroup]) -> dict[str, Array]:
    """What removing each unit does to the loss, to first order, squared; (units,) a group.

    Groups are left out when no gradient reaches one of the constants that read their units: it would count as nothing.

    Raises:
        CalibrationError: a gradient is not finite.
    """
    batches = [] if work.parts is None else list(islice(work.parts.fit.batches(), MOST_FEEDS))
    kinds = kinds_of(work, batches)
    with work.progress.stage("Taking gradients", None, "feeds"):
        found = channel_effects(
            work.model,
            [group.consumers for group in groups],
            [batch.feed for batch in batches],
            _settings(work, kinds),
            labels_of(batches, work, kinds),
        )
    return {
        group.name: effects
        for group, effects in zip(groups, found.effects, strict=True)
        if not any(item.constant in found.unreached for item in group.consumers)
    }


def kinds_of(work: Workplace, batches: Sequence[Batch]) -> Kinds:
    """The outputs that count, each with the axis of its classes if it is class scores."""
    meter = loss_meter(work, [batch.feed for batch in batches[:JUDGING]])
    return {name: _axis(how) for name, how in meter.yardsticks.items() if how.likeness is not Likeness.EQUALITY}


def labels_of(batches: Sequence[Batch], work: Workplace, kinds: Kinds) -> list[Array] | None:
    """The right classes of every feed, when the data has them and there is one output of class scores they belong to."""
    scored = [(name, axis) for name, axis in kinds.items() if axis is not None]
    if len(scored) != 1 or len(kinds) != 1:
        return None
    name, axis = scored[0]
    shape = work.shapes.get(name)
    labels = [batch.labels for batch in batches if batch.labels is not None and batch.labels.dtype.kind in "iu"]
    if shape is None or len(labels) != len(batches) or not labels:
        return None
    without = [size for index, size in enumerate(shape) if index != axis % len(shape)]
    if list(labels[0].shape) != without or max(int(np.max(each)) for each in labels) >= shape[axis]:
        return None
    return labels


def _axis(how: Yardstick) -> int | None:
    return how.axis if how.likeness is Likeness.LOGITS else None


def _settings(work: Workplace, kinds: Kinds) -> ImportanceSettings:
    shapes: Mapping[str, tuple[int, ...]] = work.shapes
    return ImportanceSettings(kinds, backward=BackwardSettings(threads=work.threads, shapes=shapes))
