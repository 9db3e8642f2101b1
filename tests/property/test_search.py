"""The search on made-up models: it never promises what was not measured, and is near the best that brute force finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.planning.groups import Way
from qcompress.planning.search import Allowance, Goal, Search, Ways
from qcompress.recipe import Objective

COMMON = settings(deadline=None, derandomize=True, max_examples=120)
INTEGERS = (Way.STATIC, Way.DYNAMIC)


@dataclass
class Chain:
    """Groups in a row: a border between float and integers costs time, and losses add up to a power of their sum."""

    gains: Sequence[Mapping[Way, float]]
    losses: Sequence[Mapping[Way, float]]
    border: float = 0.0
    exponent: float = 1.0
    base: float = 0.0
    asked: list[Ways] = field(default_factory=list)
    runs: int = 0

    @property
    def options(self) -> Sequence[tuple[Way, ...]]:
        return [(Way.STORED, *gains, Way.KEPT) for gains in self.gains]

    def cost(self, ways: Ways) -> float:
        inside = [way in INTEGERS for way in ways]
        borders = sum(here != there for here, there in zip([False, *inside], [*inside, False], strict=True))
        gained = sum(gains.get(way, 0.0) for gains, way in zip(self.gains, ways, strict=True))
        return 10.0 * len(ways) - gained + borders * self.border

    def size(self, ways: Ways) -> float:
        return sum(400.0 if way is Way.KEPT else 100.0 for way in ways)

    def alone(self, members: Mapping[int, Way]) -> float:
        self.runs += 1
        return float(sum(self.losses[group].get(way, self.base) for group, way in members.items()) ** self.exponent)

    def repair(self, ways: Ways, harmful: Sequence[int]) -> bool:
        assert all(ways[group] in INTEGERS for group in harmful)
        return False

    def joint(self, ways: Ways) -> float:
        self.asked.append(ways)
        changed = sum(losses.get(way, 0.0) for losses, way in zip(self.losses, ways, strict=True))
        stored = self.base * sum(way is not Way.KEPT for way in ways)
        return float(changed**self.exponent + stored)


@st.composite
def chains(draw: st.DrawFn, most: int = 7) -> Chain:
    count = draw(st.integers(1, most))
    ways = [draw(st.sampled_from([(), (Way.STATIC,), (Way.DYNAMIC,), INTEGERS])) for _ in range(count)]
    gains = [{way: float(draw(st.integers(-3, 9))) for way in each} for each in ways]
    losses = [{way: draw(st.integers(0, 50)) / 1000.0 for way in each} for each in ways]
    return Chain(gains, losses, float(draw(st.integers(0, 3))), draw(st.sampled_from([0.8, 1.0, 1.3])))


def brute_force(chain: Chain, budget: float) -> float:
    every = product(*[[way for way in options if way is not Way.KEPT] for options in chain.options])
    return min(chain.cost(ways) for ways in every if chain.joint(ways) <= budget)


def silent(text: str) -> None:
    assert text


@COMMON
@given(chains(), st.sampled_from([0.0, 0.005, 0.02, 0.1]))
def test_what_is_promised_was_measured_and_fits(chain: Chain, budget: float) -> None:
    search = Search(chain, Goal(budget), Allowance(50, 9), silent)
    best = search.run()
    assert best.ways in chain.asked
    assert best.loss == chain.joint(best.ways) <= budget
    assert best.cost <= chain.cost((Way.STORED,) * len(chain.gains))


@COMMON
@given(chains(5), st.sampled_from([0.01, 0.03, 0.1]))
def test_near_the_best_there_is(chain: Chain, budget: float) -> None:
    """Within a tenth of float's time of the optimum, though only twelve candidates were measured."""
    best = Search(chain, Goal(budget), Allowance(50, 12), silent).run()
    everything = 10.0 * len(chain.gains)
    assert best.cost <= brute_force(chain, budget * 0.9) + 0.1 * everything


@COMMON
@given(chains(), st.floats(0.3, 1.0))
def test_the_same_answers_give_the_same_search(chain: Chain, share: float) -> None:
    first = Search(chain, Goal(share * 0.05), Allowance(20, 9), silent).run()
    assert Search(chain, Goal(share * 0.05), Allowance(20, 9), silent).run() == first


@COMMON
@given(chains())
def test_no_candidate_of_the_frontier_beats_another(chain: Chain) -> None:
    points = Search(chain, Goal(0.01), Allowance(50, 30), silent).widen()
    for first, second in product(points, points):
        better = (first.cost <= second.cost, first.size <= second.size, first.loss <= second.loss)
        assert first is second or not all(better)


def test_a_harmful_layer_alone_goes_back_to_float() -> None:
    gains = [{Way.STATIC: 5.0}] * 30
    losses = [{Way.STATIC: 0.5 if index == 17 else 0.0001} for index in range(30)]
    best = Search(Chain(gains, losses), Goal(0.01), Allowance(50, 9), silent).run()
    assert [index for index, way in enumerate(best.ways) if way is Way.STORED] == [17]


@pytest.mark.parametrize("most", [8, 20, 64])
def test_blocks_are_split_where_they_lose_most(most: int) -> None:
    """With fewer runs than groups, the harmful one is still cornered; never more runs than allowed."""
    gains = [{Way.STATIC: 5.0}] * 64
    losses = [{Way.STATIC: 0.5 if index == 40 else 0.0} for index in range(64)]
    chain = Chain(gains, losses)
    best = Search(chain, Goal(0.01), Allowance(most, 9), silent).run()
    assert chain.runs <= most
    assert best.loss <= 0.01
    assert best.ways.count(Way.STATIC) >= (63 if most >= 20 else 48)


def test_least_loss_within_a_speed_limit() -> None:
    gains = [{Way.STATIC: 5.0}] * 20
    losses = [{Way.STATIC: 0.0001 * (index + 1)} for index in range(20)]
    goal = Goal(0.05, Objective.LOSS, most_ms=150.0)
    best = Search(Chain(gains, losses), goal, Allowance(50, 16), silent).run()
    assert best.cost <= 150.0
    assert best.ways.count(Way.STATIC) <= 12
    assert best.loss <= 0.0001 * sum(range(1, 13))


def test_size_first() -> None:
    gains = [{Way.STATIC: 5.0}] * 4
    losses = [{Way.STATIC: 0.001}] * 4
    best = Search(Chain(gains, losses), Goal(0.01, Objective.SIZE), Allowance(50, 9), silent).run()
    assert best.size == 400.0


def test_stored_weights_that_lose_too_much_are_kept() -> None:
    """Every group loses 0.002 as stored codes, 0.01 are allowed: about half the groups must stay as they came."""
    chain = Chain([{}] * 9, [{}] * 9, base=0.002)
    best = Search(chain, Goal(0.01), Allowance(50, 9), silent).run()
    assert best.loss <= 0.01
    assert 4 <= best.ways.count(Way.KEPT) <= 6
