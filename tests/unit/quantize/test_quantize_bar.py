"""What fitted rounding promises on rows it has not seen, at 4 bits in blocks of 32; the whole table is in bench/rounding.py."""

from functools import cache

import numpy as np
import pytest
from bench.rounding import errors, make_layer

from qcompress.types import parse_scheme

INPUTS, OUTPUTS, SEEDS = 96, 24, 3


@cache
def figures(correlated: bool, rows: int) -> dict[str, float]:
    scheme = parse_scheme("int4/block32").on_axis(1)
    runs = [errors(make_layer(seed, correlated, INPUTS, OUTPUTS), scheme, rows) for seed in range(SEEDS)]
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


@pytest.mark.parametrize("ratio", [2, 4, 16])
def test_correlated_inputs_leave_three_quarters_of_nearest_at_most(ratio):
    found = figures(True, ratio * INPUTS)
    assert found["fitted"] <= 0.75 * found["nearest"]
    assert found["fitted"] <= 0.5 * found["clip"]  # what it reaches; the bar alone would hardly notice a loss


@pytest.mark.parametrize("correlated", [True, False], ids=["correlated", "nearly uncorrelated"])
@pytest.mark.parametrize("ratio", [0.5, 1, 2, 4, 16])
def test_it_is_never_above_clipping(correlated, ratio):
    found = figures(correlated, int(ratio * INPUTS))
    assert found["fitted"] <= 1.001 * found["clip"]


def test_a_fixed_damping_is_not_enough():
    """Why the share is picked: with few nearly uncorrelated rows GPTQ alone is worse than nearest rounding."""
    found = figures(False, INPUTS // 2)
    assert found["gptq"] > found["nearest"] > found["fitted"]
