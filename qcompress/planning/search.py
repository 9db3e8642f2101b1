"""The search: which way each group goes, so that the model is as fast (or small) as the budget of loss allows.

Losses measured alone and times in context choose a candidate; only the candidate's joint loss, measured, decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Protocol

from qcompress.plan.solver import Option, solve
from qcompress.planning.groups import Way
from qcompress.recipe import Objective

Ways = tuple[Way, ...]
"""The way each group goes."""

INTEGER_WAYS = (Way.STATIC, Way.DYNAMIC)

MARGIN = 0.1
"""Share of the budget that is never used up on the samples that choose, since others will differ."""

WORTH = 0.02
"""Integer arithmetic that gains less than this share of the time is not worth its loss."""


BISECTIONS = 12
"""Steps from a thousandth of the summed losses to all of them, 1.8 % wide at the end."""

MOST_REPAIRED = 40
"""Groups for which repairs are looked for."""

SWEEPS = 4
"""Rounds of the local search; it usually ends after two."""

LEAST_SHARE = 1e-3
"""Share of the summed losses below which a candidate differs too little from stored weights to be tried."""

SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
"""Shares of the summed losses at which the frontier is measured."""


class Effort(StrEnum):
    """How long the search may take."""

    QUICK = "quick"
    NORMAL = "normal"
    THOROUGH = "thorough"


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds``: for losses measured alone, as estimated beforehand, so that the same costs give the same search.

    ``joints``: candidates measured as a whole.
    """

    seconds: float
    joints: int


LIMITS: dict[Effort, Limits] = {
    Effort.QUICK: Limits(15.0, 4),
    Effort.NORMAL: Limits(60.0, 9),
    Effort.THOROUGH: Limits(600.0, 24),
}
"""Effort -> what may be spent."""


class Oracle(Protocol):
    """Answers about a model; ``cost`` and ``size`` are cheap, ``alone`` and ``joint`` run it."""

    @property
    def options(self) -> Sequence[Collection[Way]]:
        """The ways each group can go; all can be stored and kept."""

    def cost(self, ways: Ways) -> float:
        """Milliseconds of one run, estimated in context."""

    def size(self, ways: Ways) -> float:
        """Bytes of all weights."""

    def alone(self, members: Mapping[int, Way]) -> float:
        """The loss when only these groups (group -> way) change."""

    def joint(self, ways: Ways) -> float:
        """The loss of the whole compressed model."""

    def repair(self, ways: Ways, harmful: Sequence[int]) -> bool:
        """Make groups less harmful without changing their ways; whether anything changed, and losses with it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """``budget``: of loss. ``most_ms`` and ``most_bytes``: limits on time and size, None without.

    ``samples``: how many the losses are measured on.
    """

    budget: float
    objective: Objective = Objective.LATENCY
    most_ms: float | None = None
    most_bytes: float | None = None
    samples: int = 100

    @property
    def least_loss(self) -> bool:
        """Whether to spend no more loss than the limits need."""
        return self.objective is Objective.LOSS

    @property
    def target(self) -> float:
        """The loss aimed at: a tenth of the budget is left, three quarters of it with one sample, since others will differ."""
        return self.budget * min(1.0 - MARGIN, 1.0 - 0.75 / math.sqrt(self.samples))


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate whose joint loss was measured."""

    ways: Ways
    cost: float
    size: float
    loss: float


@dataclass(slots=True)
class Findings:
    """What the search found out: every candidate measured, and the loss of single options."""

    points: dict[Ways, Point] = field(default_factory=dict)
    losses: dict[tuple[int, Way], float] = field(default_factory=dict)
    """(group, way) -> loss alone."""

    def frontier(self) -> list[Point]:
        """The candidates that no other beats in time, size and loss, from the least loss up."""
        points = sorted(self.points.values(), key=lambda point: (point.loss, point.cost, point.size, point.ways))
        found: list[Point] = []
        for point in points:
            if not any(other.cost <= point.cost and other.size <= point.size for other in found):
                found.append(point)
        return found


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much may be run: ``alone`` losses of groups or blocks, ``joint`` losses of whole candidates."""

    alone: int
    joint: int


class Search:
    """One search; the findings grow while it runs."""

    def __init__(self, oracle: Oracle, goal: Goal, allowance: Allowance, tell: Callable[[str], None]) -> None:
        self._oracle = oracle
        self.goal = goal
        self._allowance = allowance
        self._tell = tell
        self.findings = Findings()
        self.stored: Ways = (Way.STORED,) * len(oracle.options)

    def run(self) -> Point:
        """The best candidate found that keeps the budget, else the one of least loss."""
        base = self._try(self.stored, "all weights stored, float arithmetic")
        if base.loss > self.goal.budget:
            self._rescue()
        fast = self.fastest()
        if fast != self.stored:
            found = self._try(fast, "the fastest forms")
            if found.loss > self.goal.target or self.goal.least_loss:
                self.measure_alone(fast)
                if found.loss > self.goal.target and self._repair(fast):
                    found = self._try(fast, "the fastest forms, repaired")
                self._close_in(fast, found)
        return self.best()

    def best(self) -> Point:
        """The best candidate measured so far; within the budget with a margin if there is one."""
        goal, points = self.goal, self.findings.points.values()
        allowed = [point for point in points if point.loss <= goal.target]
        allowed = allowed or [point for point in points if point.loss <= goal.budget]
        if not allowed:
            return min(points, key=lambda point: (point.loss, point.cost, point.ways))
        within = [point for point in allowed if self._keeps_limits(point)]
        if within and goal.least_loss:
            return min(within, key=lambda point: (point.loss, point.cost, point.ways))
        return min(within or allowed, key=lambda point: (*self._aim(point.cost, point.size), point.loss, point.ways))

    def widen(self) -> list[Point]:
        """Measure more candidates between the safest and the fastest, and give the frontier."""
        fast = self.fastest()
        if fast != self.stored:
            self.measure_alone(fast)
            whole = self._sum(fast)
            for share in SHARES:
                self._try(self._within(fast, whole * share), f"{share:.0%} of what the fastest forms lose")
        return self.findings.frontier()

    def fastest(self) -> Ways:
        """The fastest candidate whatever it loses; all stored if integers gain too little."""
        fast = self._descend(self._plain(), float("inf"))
        gain = 1.0 - self._oracle.cost(fast) / max(self._oracle.cost(self.stored), 1e-12)
        return fast if gain >= WORTH else self.stored

    def measure_alone(self, ways: Ways) -> None:
        """Measure what the groups of ``ways`` lose alone: singly, or in blocks that are split where they lose most."""
        losses, most = self.findings.losses, self._allowance.alone
        active = [group for group, way in enumerate(ways) if way != self.stored[group]]
        todo = [group for group in active if (group, ways[group]) not in losses]
        blocks = _cut(todo, len(todo) if len(todo) <= most else max(1, most // 2))
        found = [(self._block(block, ways), block) for block in blocks]
        left = most - len(blocks)
        while left >= 2 and any(len(block) > 1 for _, block in found):
            worst = max((item for item in found if len(item[1]) > 1), key=lambda item: (item[0], -item[1][0]))
            found.remove(worst)
            found += [(self._block(half, ways), half) for half in _cut(worst[1], 2)]
            left -= 2
        for loss, block in found:
            losses.update(((group, ways[group]), loss / len(block)) for group in block)
        self._measure_others(active, ways, left)

    def _block(self, block: Sequence[int], ways: Ways) -> float:
        return self._oracle.alone({group: ways[group] for group in block})

    def _measure_others(self, active: Sequence[int], ways: Ways, left: int) -> None:
        """Measure the other integer forms of the groups that lose most."""
        losses = self.findings.losses
        for group in sorted(active, key=lambda group: (-losses[group, ways[group]], group)):
            if losses[group, ways[group]] * len(active) < self.goal.budget:
                return
            for way in INTEGER_WAYS:
                if left > 0 and way in self._oracle.options[group] and (group, way) not in losses:
                    losses[group, way] = self._oracle.alone({group: way})
                    left -= 1

    def _plain(self) -> Ways:
        """The fastest of the candidates where every group that can goes the same way."""
        everything = range(len(self.stored))
        plain = [self._changed_in(self.stored, everything, way, known=False) for way in INTEGER_WAYS]
        mixed = self._changed_in(plain[0], everything, INTEGER_WAYS[1], known=False)
        return min([self.stored, *plain, mixed], key=lambda ways: (*self._value(ways), ways))

    def _repair(self, fast: Ways) -> bool:
        """Repair the groups that lose more than their share of the budget; what they lose is measured again."""
        losses = self.findings.losses
        active = [group for group, way in enumerate(fast) if way != self.stored[group]]
        share = self.goal.target / len(active)
        harmful = sorted(
            (group for group in active if losses[group, fast[group]] > share), key=lambda g: -losses[g, fast[g]]
        )
        if not harmful or not self._oracle.repair(fast, harmful[:MOST_REPAIRED]):
            return False
        for group in harmful[:MOST_REPAIRED]:
            losses[group, fast[group]] = self._oracle.alone({group: fast[group]})
        self.findings.points = {ways: point for ways, point in self.findings.points.items() if ways == self.stored}
        return True

    def _rescue(self) -> None:
        """Stored weights alone lose too much: keep those that lose most, as few as can be."""
        losses = {group: self._oracle.alone({group: Way.STORED}) for group in range(len(self.stored))}
        harmful = sorted(losses, key=lambda group: (-losses[group], group))
        low, high = 0, len(harmful)
        while low < high and self._may_try():
            middle = (low + high) // 2
            kept = set(harmful[: middle + 1])
            ways = tuple(Way.KEPT if group in kept else Way.STORED for group in range(len(self.stored)))
            if self._try(ways, f"{len(kept)} of {len(ways)} groups kept as they are").loss <= self.goal.target:
                high, self.stored = middle, ways
            else:
                low = middle + 1

    def _close_in(self, fast: Ways, found: Point) -> None:
        """Bisect the bound of summed losses until the joint loss fits the budget (or the limits are just kept)."""
        whole = self._sum(fast)
        low, high = whole * LEAST_SHARE, whole
        bound = max(low, whole * min(1.0, self.goal.target / max(found.loss, 1e-12)))
        for _ in range(BISECTIONS):
            if not self._may_try() or high <= low * 1.05:
                return
            ways = self._within(fast, bound)
            point = self._try(ways, f"{self._changed(ways)} of {len(ways)} groups in integers")
            less = self._keeps_limits(point) if self.goal.least_loss else point.loss > self.goal.target
            low, high = (low, bound) if less else (bound, high)
            bound = (low * high) ** 0.5

    def _within(self, fast: Ways, bound: float) -> Ways:
        """The best candidate whose losses alone sum to at most ``bound``: by the solver, then improved in context."""
        losses = self.findings.losses
        active = [group for group, way in enumerate(fast) if way != self.stored[group]]
        known = {group: sorted(way for owner, way in losses if owner == group and way in INTEGER_WAYS) for group in active}
        here = self._value(fast)[0]
        tables = [
            [Option(self._value(_with(fast, group, self.stored[group]))[0] - here, 0.0)]
            + [Option(self._value(_with(fast, group, way))[0] - here, losses[group, way]) for way in known[group]]
            for group in active
        ]
        choice = solve(tables, bound)
        ways = list(self.stored)
        for group, index in zip(active, choice.indices if choice is not None else (), strict=choice is not None):
            ways[group] = [self.stored[group], *known[group]][index]
        return self._descend(tuple(ways), bound)

    def _descend(self, ways: Ways, bound: float) -> Ways:
        """Change runs of neighbours, then ever shorter ones, while that makes the model better and the losses fit."""
        value = self._value(ways)
        for _ in range(SWEEPS):
            before = ways
            for run, way in _moves(len(ways)):
                candidate = self._changed_in(ways, run, way, known=bound < float("inf"))
                if candidate != ways and self._sum(candidate) <= bound and self._value(candidate) < value:
                    ways, value = candidate, self._value(candidate)
            if ways == before:
                break
        return ways

    def _changed_in(self, ways: Ways, run: range, way: Way, *, known: bool) -> Ways:
        """``ways`` with the groups of a run going another way, where they can (and what they lose is known)."""
        changed = list(ways)
        for group in run:
            if way is Way.STORED:
                changed[group] = self.stored[group]
            elif way in self._oracle.options[group] and (not known or (group, way) in self.findings.losses):
                changed[group] = way
        return tuple(changed)

    def _changed(self, ways: Ways) -> int:
        return sum(way != base for way, base in zip(ways, self.stored, strict=True))

    def _sum(self, ways: Ways) -> float:
        losses = self.findings.losses
        return sum(losses.get((group, way), 0.0) for group, way in enumerate(ways) if way != self.stored[group])

    def _value(self, ways: Ways) -> tuple[float, float]:
        return self._aim(self._oracle.cost(ways), self._oracle.size(ways))

    def _aim(self, cost: float, size: float) -> tuple[float, float]:
        return (size, cost) if self.goal.objective is Objective.SIZE else (cost, size)

    def _keeps_limits(self, point: Point) -> bool:
        goal = self.goal
        return (goal.most_ms is None or point.cost <= goal.most_ms) and (
            goal.most_bytes is None or point.size <= goal.most_bytes
        )

    def _may_try(self) -> bool:
        return len(self.findings.points) < self._allowance.joint

    def _try(self, ways: Ways, what: str) -> Point:
        if ways not in self.findings.points:
            self._tell(what)
            loss = self._oracle.joint(ways)
            self.findings.points[ways] = Point(ways, self._oracle.cost(ways), self._oracle.size(ways), loss)
        return self.findings.points[ways]


def _with(ways: Ways, group: int, way: Way) -> Ways:
    return (*ways[:group], way, *ways[group + 1 :])


def _cut(groups: Sequence[int], count: int) -> list[list[int]]:
    """Runs of neighbours, as equal as can be."""
    edges = [round(index * len(groups) / max(count, 1)) for index in range(count + 1)]
    return [list(groups[first:last]) for first, last in pairwise(edges) if last > first]


def _moves(groups: int) -> Iterator[tuple[range, Way]]:
    """Runs of neighbouring groups, long ones first, and the way they shall go."""
    length = 1 << max(groups.bit_length() - 1, 0)
    while length:
        for first in range(0, max(groups - length, 0) + 1, max(1, length // 2)):
            for way in (Way.STORED, *INTEGER_WAYS):
                yield range(first, min(first + length, groups)), way
        length //= 2
