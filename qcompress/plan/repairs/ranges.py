"""Other ranges: what another method would have chosen for the tensors around a group."""

from __future__ import annotations

from collections.abc import Sequence

from qcompress.decisions import ActivationPlan
from qcompress.operators.flow import activation_inputs, settled
from qcompress.plan.repairs.proposal import Evidence, Repair
from qcompress.quantize import parameters

DIFFERENT = 0.03
"""Ranges whose widths differ by less than this share are the same."""


def other_ranges(group: Sequence[str], evidence: Evidence) -> list[Repair]:
    """One proposal for each method whose ranges differ for a tensor that the group reads or writes."""
    nodes = [use.node for name in group if name in evidence.static for use in evidence.layers[name].uses]
    values = [value for node in nodes for value in (*activation_inputs(node), settled(node.outputs[0]))]
    tensors = list(dict.fromkeys(value.name or "" for value in values))
    repairs = []
    seen: list[dict[str, ActivationPlan]] = []
    for method, ranges in evidence.statistics.alternatives.items():
        activations = {}
        for tensor in tensors:
            found, now = ranges.get(tensor), evidence.statistics.ranges.get(tensor)
            if found is None or now is None or now.high <= now.low:
                continue
            if abs((found.high - found.low) / (now.high - now.low) - 1.0) > DIFFERENT:
                scale, zero_point = parameters(found.low, found.high, evidence.activations)
                activations[tensor] = ActivationPlan(float(scale), int(zero_point))
        if activations and activations not in seen:
            seen.append(activations)
            repairs.append(Repair(f"range method {method}", tuple(group), activations=activations))
    return repairs
