"""What the search asks about a model: time and size from measured costs, losses from running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qcompress.decisions import ActivationPlan, CompressionPlan, Keep
from qcompress.errors import RecipeError
from qcompress.plan.coverage import as_decisions, coverage
from qcompress.plan.estimate import Estimator
from qcompress.plan.repairs import REPAIRS, Repair
from qcompress.planning.groups import Group, Way
from qcompress.planning.losses import LossMeter
from qcompress.planning.repairs import propose_repairs, refit
from qcompress.planning.search import Ways
from qcompress.planning.store import Measurements, key_of
from qcompress.planning.work import Chosen, Fitted, Workplace, alone, assemble
from qcompress.types import Form

QUANTIZED_TENSOR_BYTES = 330
"""QuantizeLinear, DequantizeLinear and their scale, with names (sample models and EfficientNet-Lite0: 310 to 350)."""

BETTER = 0.9
"""A repair is kept when at most this share of the loss is left; less could be chance."""


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
    rescaled: Workplace | None = None
    """The workplace on the model with rescaled channels, once a repair has rescaled any."""
    scales: dict[str, tuple[float, ...]] = field(default_factory=dict)
    owners: dict[str, frozenset[str]] = field(default_factory=dict)
    """Rescaled tensor -> weights of the group it was rescaled for."""
    activations: dict[str, ActivationPlan] = field(default_factory=dict)
    """Scales and zero points that a repair found better than the usual ones."""
    repairs: list[str] = field(default_factory=list)
    """What each repair bought, in words."""
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
        """Bytes of all weights that are in a group, and of the nodes around quantized tensors."""
        nodes = QUANTIZED_TENSOR_BYTES * len(self.work.place(self.forms(ways)).tensors)
        return nodes + sum(sizes[way] for sizes, way in zip(self.sizes, ways, strict=True))

    def alone(self, members: Mapping[int, Way]) -> float:
        """The loss when only these groups change."""
        chosen: dict[str, Form | Keep] = {layer.name: Keep("") for layer in self.work.layers}
        for group, way in members.items():
            chosen |= self.groups[group].forms[way]
        layers = [layer for group in members for layer in self.groups[group].layers]
        names = {layer.name for layer in layers}
        plan = alone(self._assembled(chosen), layers, self._place().place(chosen))
        own = {tensor: scales for tensor, scales in self.scales.items() if self.owners[tensor] & names}
        plan = replace(plan, channel_scales=own)
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
        return self._assembled(self.forms(ways))

    def repair(self, ways: Ways, harmful: Sequence[int]) -> bool:
        """Try to make groups less harmful, most harmful first; keeps what the measured loss says is better."""
        chosen = self.forms(ways)
        names = [[layer.name for layer in self.groups[group].layers] for group in harmful]
        owner = {name: group for group, group_names in zip(harmful, names, strict=True) for name in group_names}
        proposals = propose_repairs(self.work, self.fitted, chosen, names)
        before = len(self.repairs)
        for kind in REPAIRS:
            self._rescale(kind, [item for item in proposals if item.name == kind and item.channel_scales], ways)
        for item in proposals:
            if item.activations:
                self._change_ranges(item, {owner[item.group[0]]: ways[owner[item.group[0]]]})
        return len(self.repairs) > before

    def _rescale(self, kind: str, proposals: Sequence[Repair], ways: Ways) -> None:
        """Rescale the channels of all proposals together, if the model as a whole then loses less."""
        free = [item for item in proposals if not item.inserted]  # a Mul of its own costs time
        scales = {tensor: factors for item in free for tensor, factors in item.channel_scales.items()}
        owners = {tensor: frozenset(item.group) for item in free for tensor in item.channel_scales}
        scales = {tensor: factors for tensor, factors in scales.items() if tensor not in self.scales}
        if not scales:
            return
        loss = self.joint(ways)
        known = (self.rescaled, self.fitted, self.scales, self.owners)
        try:
            self.rescaled, self.fitted = refit(self.work, self.fitted, self.forms(ways), self.scales | scales)
        except RecipeError:  # two proposals that cannot be written together
            return
        self.scales, self.owners = self.scales | scales, self.owners | owners
        repaired = self.joint(ways)
        if repaired > loss * BETTER:
            self.rescaled, self.fitted, self.scales, self.owners = known
            return
        self.repairs.append(f"{kind} of {len(scales)} tensors: loss of the fastest forms {loss:.2g} -> {repaired:.2g}")

    def _change_ranges(self, item: Repair, members: Mapping[int, Way]) -> None:
        """Take other ranges for the activations of a group, if it then loses less."""
        loss, known = self.alone(members), self.activations
        self.activations = known | dict(item.activations)
        repaired = self.alone(members)
        if repaired > loss * BETTER:
            self.activations = known
            return
        name = self.groups[min(members)].name
        self.repairs.append(f"{item.name} for {name}: loss alone {loss:.2g} -> {repaired:.2g}")

    def _place(self) -> Workplace:
        return self.rescaled or self.work

    def _assembled(self, chosen: Chosen) -> CompressionPlan:
        plan = assemble(self._place(), chosen, self.fitted)
        better = {tensor: found for tensor, found in self.activations.items() if tensor in plan.activations}
        return replace(plan, activations={**plan.activations, **better}, channel_scales=self.scales)

    def _bytes(self, group: Group, way: Way) -> float:
        rows = coverage(group.layers, as_decisions(group.layers, group.forms[way], self.work.recipe))
        return float(sum(row.bytes_after for row in rows))


def _key(kind: str, plan: CompressionPlan) -> str:
    return f"{kind}/{key_of(plan.to_json())}"
