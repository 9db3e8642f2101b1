"""The solver against brute force: same cost, within the budget, and a frontier without gaps."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.plan.solver import MOST_STATES, Option, frontier, solve

OPTIONS = st.lists(st.builds(Option, st.integers(-20, 20).map(float), st.integers(0, 12).map(float)), min_size=1, max_size=4)
GROUPS = st.lists(OPTIONS, min_size=0, max_size=6)
COMMON = settings(deadline=None, derandomize=True, max_examples=150)


def brute_force(groups: list[list[Option]], budget: float) -> float | None:
    sums = [(sum(option.cost for option in chosen), sum(option.loss for option in chosen)) for chosen in product(*groups)]
    return min((cost for cost, loss in sums if loss <= budget), default=None)


@COMMON
@given(GROUPS, st.integers(-1, 60))
def test_the_least_cost_within_the_budget(groups: list[list[Option]], budget: int) -> None:
    found, best = solve(groups, float(budget)), brute_force(groups, float(budget))
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.cost == best
    chosen = [options[index] for options, index in zip(groups, found.indices, strict=True)]
    assert sum(option.cost for option in chosen) == found.cost
    assert sum(option.loss for option in chosen) == found.loss <= budget


@COMMON
@given(GROUPS)
def test_the_frontier_holds_the_best_for_every_budget(groups: list[list[Option]]) -> None:
    choices = frontier(groups)
    assert [choice.loss for choice in choices] == sorted({choice.loss for choice in choices})
    assert [choice.cost for choice in choices] == sorted({choice.cost for choice in choices}, reverse=True)
    for budget in range(60):
        best = min((choice.cost for choice in choices if choice.loss <= budget), default=None)
        assert best == brute_force(groups, float(budget))


@pytest.mark.parametrize("count", [60, 200])
def test_large_instances_stay_near_the_bound(count: int) -> None:
    """With many more sums than states, the answer stays feasible and close to the bound of the linear relaxation."""
    groups = [[Option(10.0, 0.0), Option(10.0 - (i % 17) * 0.37, 0.001 * ((i * 7919) % 101 + 0.5))] for i in range(count)]
    assert 2**count > MOST_STATES
    budget = 0.3 * sum(options[1].loss for options in groups)
    found = solve(groups, budget)
    assert found is not None
    assert found.loss <= budget
    ratios = sorted(groups, key=lambda options: (options[1].cost - options[0].cost) / options[1].loss)
    bound, room = 10.0 * count, budget
    for options in ratios:
        share = min(1.0, room / options[1].loss)
        bound += share * (options[1].cost - options[0].cost)
        room -= share * options[1].loss
    assert found.cost <= bound + 0.01 * (10.0 * count - bound)
