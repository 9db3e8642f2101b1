"""Groups of channels of every kind of network, and what is left when some of them are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cut_models import assert_cut_is_zeros, some_units

from qcompress.calibrate import observe_shapes
from qcompress.graph.model import Model
from qcompress.pipeline import load_prepared
from qcompress.structure import Groups, find_groups, multiply_adds
from qcompress.types import Array

SAMPLES = Path(__file__).resolve().parents[3] / "sample_models"
HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def members(groups: Groups) -> dict[str, tuple[int, list[str], list[str], list[str]]]:
    """Name -> units, producers, consumers and others as ``constant/axis``."""
    return {
        group.name: (
            group.units,
            *(
                [f"{piece.constant}/{piece.axis}" for piece in part]
                for part in (group.producers, group.consumers, group.others)
            ),
        )
        for group in groups.groups
    }


def reasons(groups: Groups) -> dict[str, str]:
    """Weight -> why its channels stay."""
    return {blocked.name: blocked.reason for blocked in groups.blocked}


def sample(name: str) -> tuple[Model, Groups, list[dict[str, Array]]]:
    """A sample model with its groups and three feeds."""
    model = load_prepared(SAMPLES / f"{name}.onnx")
    with np.load(SAMPLES / f"{name}.calib.npz") as data:
        feeds = [{item.name: data[item.name][place : place + 1] for item in model.inputs} for place in (0, 5, 9)]
    return model, find_groups(model, observe_shapes(model, feeds[0])), feeds


@pytest.mark.parametrize("share", [0.7, 0.2])
@pytest.mark.parametrize(("name", "count"), [("digits_cnn", 11), ("reviews_transformer", 4)])
def test_sample_models_are_cut(name: str, count: int, share: float) -> None:
    model, groups, feeds = sample(name)
    assert len(groups.groups) == count
    kept = some_units(groups, 3, share)
    smaller = None
    for feed in feeds:
        smaller = assert_cut_is_zeros(model, groups, kept, feed)
    assert smaller is not None
    before = sum(multiply_adds(model, observe_shapes(model, feeds[0])).values())
    after = sum(multiply_adds(smaller, observe_shapes(smaller, feeds[0])).values())
    assert after < (share + 0.1) * before
