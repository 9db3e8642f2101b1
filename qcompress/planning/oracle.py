"""What the search asks about a model: time and size from measured costs, losses from running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcompress.decisions import CompressionPlan, Keep
from qcompress.plan.coverage import as_decisions, coverage
from qcompress.plan.estimate import Estimator
from qcompress.planning.groups import Group, Way
from qcompress.planning.losses import LossMeter
from qcompress.planning.search import Ways
from qcompress.planning.store import Measurements, key_of
from qcompress.planning.work import Chosen, Fitted, Workplace, alone, assemble
from qcompress.types import Form


@dataclass(slots=True)
class ModelOracle:
    """Answers for one model; ``fixed``: the form of every weight that is in no group."""

    work: Workplace
    groups: Sequence[Group]
    fixed: Chosen
    fitted: Fitted
    estimator: Estimator
    meter: LossMeter
    measurements: Measurements
    sizes: list[Mapping[Way, float]] = field(init=False)
    costs: dict[Ways, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = [{way: self._bytes(group, way) for way in group.ways} for group in self.groups]

    @property
    def options(self) -> Sequence[Sequence[Way]]:
        """The ways each group can go."""
        return [group.ways for group in self.groups]

    def cost(self, ways: Ways) -> float:
        """Milliseconds of one run, estimated in context."""
        if ways not in self.costs:
            chosen = self.forms(ways)
            self.costs[ways] = self.estimator.milliseconds(chosen, self.work.place(chosen))
        return self.costs[ways]

    def size(self, ways: Ways) -> float:
        """Bytes of all weights that are in a group."""
        return sum(sizes[way] for sizes, way in zip(self.sizes, ways, strict=True))

    def alone(self, members: Mapping[int, Way]) -> float:
        """The loss when only these groups change."""
        chosen: dict[str, Form | Keep] = {layer.name: Keep("") for layer in self.work.layers}
        for group, way in members.items():
            chosen |= self.groups[group].forms[way]
        layers = [layer for group in members for layer in self.groups[group].layers]
        plan = alone(assemble(self.work, chosen, self.fitted), layers, self.work.place(chosen))
        return self.measurements.loss(_key("alone", plan), lambda: self.meter.alone(plan))

    def joint(self, ways: Ways) -> float:
        """The loss of the whole compressed model."""
        plan = self.plan(ways)
        return self.measurements.loss(_key("joint", plan), lambda: self.meter.joint(plan))

    def forms(self, ways: Ways) -> Chosen:
        """Weight -> form, for every weight of the model."""
        taken = {name: form for group, way in zip(self.groups, ways, strict=True) for name, form in group.forms[way].items()}
        return {**self.fixed, **taken}

    def plan(self, ways: Ways) -> CompressionPlan:
        """The plan of a choice."""
        return assemble(self.work, self.forms(ways), self.fitted)

    def _bytes(self, group: Group, way: Way) -> float:
        rows = coverage(group.layers, as_decisions(group.forms[way], self.work.recipe.weights))
        return float(sum(row.bytes_after for row in rows))


def _key(kind: str, plan: CompressionPlan) -> str:
    return f"{kind}/{key_of(plan.to_json())}"
