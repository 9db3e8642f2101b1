"""Find the groups of channels of a prepared model: every node's rule is asked, then what hangs together is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from qcompress.graph import Model, Node, Value
from qcompress.graph.edit import is_constant, node_graphs, values_read
from qcompress.structure.groups import Blocked, ChannelGroup, Extent, Groups, Number, Slice
from qcompress.structure.positions import At, Components
from qcompress.structure.rules import RULES, SHAPE_RULES
from qcompress.structure.rules.common import block_node
from qcompress.structure.trace import Choice, Role, Slot, Trace, label
from qcompress.types import Array

OLDEST = 13
"""The first operator set in which shapes, axes and sizes are inputs and Softmax has one axis."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """Units that go with the same axes in the same numbers: ``axes``: axis -> positions of each unit along it."""

    labels: Array
    axes: Mapping[At, int]


def find_groups(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Groups:
    """The groups of channels that can be cut, and the weights whose channels cannot.

    Args:
        model: prepared; it is not changed.
        shapes: tensor -> shape at the sizes of some feed, feeds included.
    """
    trace, parts = _with_best_factors(model, shapes)
    order = {value: place for place, value in enumerate(_constants_read(model))}
    groups: list[ChannelGroup] = []
    lonely: dict[int, str] = {}
    for kind in _kinds(trace, parts):
        roles = {role for at in kind.axes for role in trace.roles.get(at, set())}
        reason = _why_useless(kind, roles, trace)
        if reason:
            lonely.update(dict.fromkeys(kind.labels.tolist(), reason))
        elif Role.PRODUCER in roles:
            groups.append(_group(kind, trace, parts, order))
    groups.sort(key=lambda group: (_place(group, order), int(group.producers[0].indices[0, 0])))
    reasons = {**lonely, **parts.reasons}
    return Groups(_with_names(groups), tuple(_blocked(trace, Components(parts.labels, reasons), order)))


def _with_best_factors(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Trace, Components]:
    """The trace in which changes of shape let those factors be cut that can be: when the outermost one cannot, one within.

    The three of queries, keys and values made by one product cannot be cut, their heads can.
    """
    best = _traced(model, shapes, frozenset())
    refused: frozenset[Choice] = frozenset()
    while True:
        trace, parts = best
        blocked = parts.blocked()
        stay = frozenset(choice for choice, at in trace.chosen.items() if blocked[trace.ids(at)].all())
        if stay <= refused:
            return best
        refused |= stay
        other = _traced(model, shapes, refused)
        if _free_weights(*other) <= _free_weights(*best):
            return best
        best = other


def _free_weights(trace: Trace, parts: Components) -> int:
    """How many output channels of weights may go."""
    blocked = parts.blocked()
    axes = [at for at, roles in trace.roles.items() if Role.PRODUCER in roles and not trace.why_blocked(at)]
    return sum(int((~blocked[trace.ids(at)]).sum()) for at in axes)


def _traced(model: Model, shapes: Mapping[str, tuple[int, ...]], refused: Collection[Choice]) -> tuple[Trace, Components]:
    """Every rule applied, in the order of the nodes, and what then hangs together."""
    trace = Trace(shapes, refused)
    for value in model.graph.inputs:
        trace.block_tensor(value, f"model input {value.name!r}")
    outputs = set(model.graph.outputs)
    for value in model.graph.outputs:
        if value.producer() is None:
            trace.block_tensor(value, f"model output {value.name!r}")
    for node in model.graph:
        if model.opset < OLDEST:
            block_node(node, trace, f"operator set {model.opset} is too old")
        else:
            _apply(node, trace)
        for made in node.outputs:
            if made in outputs:
                trace.block_tensor(made, f"model output {made.name!r}")
                trace.freeze(made, node)
    return trace, trace.components()


def _apply(node: Node, trace: Trace) -> None:
    """One node: by the rule for shapes when it reads or makes one, else by the rule for tensors."""
    read = [value for value in node.inputs if value is not None]
    shape_rule = SHAPE_RULES.get(node.op_type) if not node.domain else None
    about = read if node.op_type == "Concat" else read[:1]
    if shape_rule is not None and (node.op_type == "Shape" or any(trace.is_traced(value) for value in about)):
        vector = shape_rule(node, trace)
        if vector is None:
            for value in read:
                trace.freeze(value, node)
        else:
            trace.set_vector(node.outputs[0], vector)
        return
    rule = RULES.get(node.op_type) if not node.domain else None
    known = all(trace.shape(value) is not None for value in (*read, *(item for item in node.outputs if item.name)))
    if rule is None or not known or node_graphs(node):
        why = f"{label(node)}: " + ("its shapes are not known" if rule is not None and not known else "it has no rule")
        block_node(node, trace, why)
        for value in sorted(values_read(node), key=lambda value: value.name or ""):
            trace.block_tensor(value, why)
            trace.freeze(value, node)
    else:
        rule(node, trace)
    trace.end_of(node)


def _kinds(trace: Trace, parts: Components) -> Iterator[_Kind]:
    """The units that may go, sorted by what they go with."""
    axes = list(trace.met())
    if not axes:
        return
    ids = np.concatenate([trace.ids(at) for at in axes])
    owner = np.repeat(np.arange(len(axes)), [trace.size(at) for at in axes])
    free = ~parts.blocked()[ids]
    pairs = np.stack([parts.labels[ids[free]], owner[free]])
    pairs, counts = np.unique(pairs, axis=1, return_counts=True)
    labels, starts = np.unique(pairs[0], return_index=True)
    kinds: dict[bytes, list[int]] = {}
    bounds = [*starts.tolist(), pairs.shape[1]]
    for place, (start, end) in enumerate(pairwise(bounds)):
        kinds.setdefault(pairs[1, start:end].tobytes() + counts[start:end].tobytes(), []).append(place)
    for places in kinds.values():
        start, end = bounds[places[0]], bounds[places[0] + 1]
        found = zip(pairs[1, start:end].tolist(), counts[start:end].tolist(), strict=True)
        yield _Kind(labels[places], {axes[owner_]: count for owner_, count in found})


def _why_useless(kind: _Kind, roles: set[Role], trace: Trace) -> str:
    """Why units are not worth a group, empty when they are."""
    if any(len(trace.roles.get(at, ())) > 1 for at in kind.axes):
        return "a weight makes channels in one node and sums over them in another"
    if Role.CONSUMER not in roles:
        return "no weight reads the channels"
    return "there is only one unit" if len(kind.labels) < 2 else ""


def _group(kind: _Kind, trace: Trace, parts: Components, order: Mapping[Value, int]) -> ChannelGroup:
    slices: dict[Role | None, list[Slice]] = {Role.PRODUCER: [], Role.CONSUMER: [], None: []}
    constants = sorted((at for at in kind.axes if is_constant(at[0])), key=lambda at: (order.get(at[0], len(order)), at[1]))
    labels = _in_order(kind, constants, trace, parts)
    for at in constants:
        role = next(iter(trace.roles.get(at, ())), None)
        value, axis = at
        nodes = tuple(dict.fromkeys(use.node.name or "" for use in value.uses()))
        slices[role].append(Slice(value.name or "", axis, _indices(labels, at, trace, parts), nodes))
    numbers = [_number(slot, kind.axes[at] // divisor) for slot, at, divisor in trace.follows.values() if at in kind.axes]
    tensors = [Extent(value.name or "", axis, share) for (value, axis), share in kind.axes.items() if not is_constant(value)]
    left_out = tuple((node.name or "", index) for node, index, at in trace.left_out if at in kind.axes)
    producers, consumers, others = (tuple(slices[role]) for role in (Role.PRODUCER, Role.CONSUMER, None))
    name = producers[0].constant
    return ChannelGroup(name, len(labels), producers, consumers, others, tuple(numbers), tuple(tensors), left_out)


def _number(slot: Slot, share: int) -> Number:
    reader = None if slot.reader is None else (slot.reader[0].name or "", slot.reader[1])
    return Number(slot.node.name or "", slot.place, slot.values, slot.element, share, reader)


def _in_order(kind: _Kind, constants: list[At], trace: Trace, parts: Components) -> Array:
    """The units in the order of their first positions in the first producer."""
    first = next(at for at in constants if Role.PRODUCER in trace.roles.get(at, ()))
    along = parts.labels[trace.ids(first)]
    _, places = np.unique(along[np.isin(along, kind.labels)], return_index=True)
    return np.asarray(kind.labels[np.argsort(places, kind="stable")])


def _indices(labels: Array, at: At, trace: Trace, parts: Components) -> Array:
    """(units, n): the positions of each unit along an axis."""
    along = parts.labels[trace.ids(at)]
    rank = np.argsort(labels)
    sorted_labels = labels[rank]
    positions = np.flatnonzero(np.isin(along, labels))
    unit = rank[np.searchsorted(sorted_labels, along[positions])]
    return np.asarray(positions[np.argsort(unit, kind="stable")].reshape(len(labels), -1))


def _constants_read(model: Model) -> list[Value]:
    """Constants in the order in which nodes read them."""
    return list(
        dict.fromkeys(value for node in model.graph for value in node.inputs if is_constant(value) and value is not None)
    )


def _place(group: ChannelGroup, order: Mapping[Value, int]) -> int:
    places = {value.name: place for value, place in order.items()}
    return places[group.producers[0].constant]


def _with_names(groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """The groups under names of their own: a weight may make channels of several."""
    seen: Counter[str] = Counter()
    named: list[ChannelGroup] = []
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        named.append(group if number == 1 else replace(group, name=f"{group.name}#{number}"))
    return tuple(named)


def _blocked(trace: Trace, parts: Components, order: Mapping[Value, int]) -> Iterator[Blocked]:
    """Weights whose channels, or some of them, stay."""
    producers = [at for at, roles in trace.roles.items() if Role.PRODUCER in roles]
    for at in sorted(producers, key=lambda at: order.get(at[0], len(order))):
        name, whole = at[0].name or "", trace.why_blocked(at)
        labels = [] if whole else parts.labels[trace.ids(at)].tolist()
        stay = [label_ for label_ in labels if label_ in parts.reasons]
        if whole:
            yield Blocked(name, whole)
        elif stay:
            some = "" if len(stay) == len(labels) else f"{len(stay)} of {len(labels)} channels: "
            yield Blocked(name, some + parts.reasons[stay[0]])
