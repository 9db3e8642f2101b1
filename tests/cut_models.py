"""What tests of channel cutting do with a model: find its groups, cut, and compare with zeros in the consumers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from text_models import Weights, assert_close, check, prepared, run, run_reference

from qcompress.calibrate import observe_shapes
from qcompress.graph import Model
from qcompress.graph.edit import constant_array, set_constant
from qcompress.runtime import Optimization
from qcompress.structure import Groups, Slice, cut, find_groups
from qcompress.types import Array, Feed


def groups_of(folder: Path, text: str, weights: Weights, feed: Feed) -> tuple[Model, Groups]:
    """The prepared model of the text and its groups."""
    model = prepared(folder, text, weights)
    return model, find_groups(model, observe_shapes(model, feed))


def with_zeros(model: Model, groups: Groups, kept: Mapping[str, Array]) -> Model:
    """A copy in which the consumers have zeros for the units that are not kept."""
    copy = model.clone()
    for name, units in kept.items():
        gone = np.setdiff1d(np.arange(groups[name].units), units)
        for piece in groups[name].consumers:
            value = copy.graph.initializers[piece.constant]
            stored = constant_array(value)
            assert stored is not None
            array = np.moveaxis(np.array(stored), piece.axis, 0)
            array[piece.indices[gone].reshape(-1)] = 0
            set_constant(value, np.ascontiguousarray(np.moveaxis(array, 0, piece.axis)))
    return copy


def some_units(groups: Groups, seed: int, share: float = 0.5) -> dict[str, Array]:
    """Random units to keep of every group, about ``share`` of them and at least one."""
    rng = np.random.default_rng(seed)
    return {
        group.name: np.sort(rng.choice(group.units, max(1, round(group.units * share)), replace=False))
        for group in groups.groups
    }


def assert_cut_is_zeros(
    model: Model, groups: Groups, kept: Mapping[str, Array], feed: Feed, tolerance: float = 1e-4
) -> Model:
    """Cut a copy; it passes the checker, computes what zeros in the consumers do, and says its shapes truly."""
    expected = run(with_zeros(model, groups, kept), feed)
    smaller = model.clone()
    cut(smaller, groups, kept)
    check(smaller)
    assert_close(run(smaller, feed), expected, tolerance)
    assert_close(run(smaller, feed, Optimization.DISABLED), expected, tolerance)
    reference = run_reference(smaller, feed)
    if reference is not None:
        assert_close(reference, expected, tolerance)
    for name, shape in observe_shapes(smaller, feed).items():
        value = next((item for node in smaller.graph for item in node.outputs if item.name == name), None)
        if value is not None and value.shape is not None:
            stated = [size if isinstance(size, int) else None for size in value.shape]
            assert all(size in (None, real) for size, real in zip(stated, shape, strict=True)), name
    return smaller


def sizes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of every constant."""
    return {
        name: tuple(value.const_value.shape.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def slices_of(groups: Groups) -> dict[str, tuple[int, str, str, str]]:
    """Name -> units, and producers, consumers and others as ``constant/axis*positions``, those of one position without it."""

    def written(pieces: tuple[Slice, ...]) -> str:
        counts = ("" if piece.indices.shape[1] == 1 else f"*{piece.indices.shape[1]}" for piece in pieces)
        return " ".join(f"{piece.constant}/{piece.axis}{count}" for piece, count in zip(pieces, counts, strict=True))

    parts = ((group, map(written, (group.producers, group.consumers, group.others))) for group in groups.groups)
    return {group.name: (group.units, *texts) for group, texts in parts}


def reasons(groups: Groups) -> dict[str, str]:
    """Weight -> why its channels stay."""
    return {blocked.name: blocked.reason for blocked in groups.blocked}
