"""The multiple-choice knapsack: one option for every group, so that the cost is least within a budget of loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompress.types import Array

MOST_STATES = 4096
"""Partial sums kept after each group; up to here the answer is exact, beyond it the best of each interval of loss is kept."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a group: ``cost`` in any unit (ms, bytes) and ``loss``, not negative."""

    cost: float
    loss: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One option index a group, and what they add up to."""

    indices: tuple[int, ...]
    cost: float
    loss: float


def frontier(groups: Sequence[Sequence[Option]], budget: float = float("inf")) -> list[Choice]:
    """Every choice within the budget that no other choice beats in cost and loss, from the least loss to the least cost.

    Dynamic programming over the groups: after each group, of all partial sums only those survive that are not dominated.

    Source: Kellerer, Pferschy, Pisinger, Knapsack Problems, Springer 2004, section 11.5 (dynamic programming by dominance).

    Args:
        groups: options of each group, at least one each; losses and costs are finite.
        budget: of the sum of losses.

    Returns:
        An empty list when nothing fits the budget; of choices equal in cost and loss the first indices.
    """
    start = [0.0] if budget >= 0.0 else []
    losses, costs = np.array(start), np.array(start)
    steps: list[tuple[Array, Array]] = []
    for options in groups:
        extra_loss = np.array([option.loss for option in options])
        extra_cost = np.array([option.cost for option in options])
        all_losses = (losses[:, None] + extra_loss).reshape(-1)  # (states, options) -> (states * options,)
        all_costs = (costs[:, None] + extra_cost).reshape(-1)
        kept = _undominated(all_losses, all_costs, budget)
        losses, costs = all_losses[kept], all_costs[kept]
        steps.append((kept // len(options), kept % len(options)))
    return [Choice(_walk_back(steps, state), float(costs[state]), float(losses[state])) for state in range(len(losses))]


def solve(groups: Sequence[Sequence[Option]], budget: float) -> Choice | None:
    """The choice of least cost whose losses sum to at most ``budget``; None when there is none."""
    choices = frontier(groups, budget)
    return choices[-1] if choices else None


def _undominated(losses: Array, costs: Array, budget: float) -> Array:
    """Indices of partial sums within the budget that no other beats, by rising loss and falling cost."""
    order: Array = np.lexsort((costs, losses))
    order = order[losses[order] <= budget]
    if not order.size:
        return order
    best = np.minimum.accumulate(costs[order])
    first = np.concatenate([[True], best[1:] < best[:-1]])
    order = order[first]
    if order.size <= MOST_STATES:
        return order
    edges = np.linspace(losses[order[0]], losses[order[-1]], MOST_STATES + 1)
    interval = np.searchsorted(edges, losses[order], side="left")
    last = np.concatenate([interval[1:] != interval[:-1], [True]])  # cost falls along the order: the last is the cheapest
    last[0] = True  # without the least loss a tight budget could become impossible
    thinned: Array = order[last]
    return thinned


def _walk_back(steps: list[tuple[Array, Array]], state: int) -> tuple[int, ...]:
    indices: list[int] = []
    for before, option in reversed(steps):
        indices.append(int(option[state]))
        state = int(before[state])
    return tuple(reversed(indices))
