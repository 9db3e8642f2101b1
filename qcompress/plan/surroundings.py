"""Where each node and tensor stands under an assignment, as numbers: equal numbers mean equal surroundings, equal cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qcompress.plan.anatomy import Anatomy
from qcompress.plan.placement import Shapes
from qcompress.types import Array, Form

FLOAT, STATIC, DYNAMIC = 0, 1, 2
"""Codes of arithmetics."""

CODES: Mapping[str, int] = {Form.STATIC.value: STATIC, Form.DYNAMIC.value: DYNAMIC, Form.FOLDED.value: FLOAT} | {
    form.value: 3 + index for index, form in enumerate(Form) if form not in (Form.STATIC, Form.DYNAMIC, Form.FOLDED)
}
"""Form -> arithmetic; folded weights are floats again when the model runs."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One assignment.

    ``arithmetic``: (nodes,) codes. ``node_signs``: (nodes,) what a node's own time depends on: its arithmetic, that of the
    layer it follows, whether it writes integers. ``tensor_signs``: (tensors,) what the cost of a border depends on: all of
    the following, (tensors,) each. ``written``: an integer kernel writes it. ``moved``: it comes from a layer in static
    integers. ``static``, ``dynamic``, ``plain``: how many nodes read it as such integers, or as floats.
    """

    arithmetic: Array
    node_signs: Array
    tensor_signs: Array
    written: Array
    moved: Array
    static: Array
    dynamic: Array
    plain: Array

    @property
    def crossing(self) -> Array:
        """(tensors,) whether float and integer kernels meet there."""
        return np.where(self.moved, self.plain + self.dynamic > 0, self.static > 0)


class Chart:
    """The nodes and tensors of one model with indices, so that an assignment is a few operations on arrays."""

    def __init__(self, anatomy: Anatomy, shapes: Shapes) -> None:
        """``shapes``: tensor -> shape; tensors without one count as empty."""
        self.nodes = anatomy.nodes
        self._index = {name: index for index, name in enumerate(anatomy.nodes)}
        self.tensors = tuple(dict.fromkeys(anatomy.settled.values()))
        self._places = {name: index for index, name in enumerate(self.tensors)}
        self.elements = np.array([_elements(name, shapes) for name in self.tensors], dtype=np.float64)
        self._users: dict[str, list[int]] = {}
        for name, weights in anatomy.weights.items():
            for weight in weights:
                self._users.setdefault(weight, []).append(self._index[name])
        self._layers = np.array([name in anatomy.weights for name in self.nodes], dtype=bool)
        self._leaders = self._find_leaders(anatomy)
        convertible = [self._index[name] for name in self.nodes if name in anatomy.convertible and anatomy.inputs[name]]
        self._convertible = np.array(convertible, dtype=np.int64)
        sources = [anatomy.settled.get(anatomy.inputs[self.nodes[index]][0], "") for index in convertible]
        self._whole = np.array([name in anatomy.whole for name in self.nodes] + [False], dtype=bool)
        producers = np.full(len(self.tensors), len(self.nodes))  # one past the last: the model's inputs
        for tensor, node in anatomy.producers.items():
            settled = anatomy.settled[tensor]
            if tensor != settled or producers[self._places[settled]] == len(self.nodes):
                producers[self._places[settled]] = self._index[node]
        self._producers = producers
        edges = [
            (self._places[anatomy.settled[tensor]], self._index[node])
            for node, tensors in anatomy.inputs.items()
            for tensor in tensors
            if tensor in anatomy.settled and anatomy.settled[tensor] not in anatomy.outputs[node]  # not the absorbed Relu
        ]
        self._read = np.array(edges, dtype=np.int64).reshape(-1, 2)
        self._exits = np.array([name in anatomy.exits for name in self.tensors], dtype=np.int64)
        first = [anatomy.outputs[name][:1] for name in self.nodes]
        self._read_by_convertible = np.array([self._places[name] for name in sources], dtype=np.int64)
        self._written_by = np.array(
            [self._places[anatomy.settled[names[0]]] if names else 0 for names in first], dtype=np.int64
        )

    def surroundings(self, forms: Mapping[str, str], integer_nodes: Iterable[str], quantized: Iterable[str]) -> Surroundings:
        """``forms``: weight -> form. ``quantized``: tensors with a calibrated scale."""
        arithmetic = np.zeros(len(self.nodes) + 1, dtype=np.int64)
        for weight, form in forms.items():
            code = CODES.get(form, FLOAT)
            if code not in (FLOAT, STATIC):
                arithmetic[self._users.get(weight, [])] = code
        arithmetic[[self._index[name] for name in integer_nodes if name in self._index]] = STATIC
        scaled = np.zeros(len(self.tensors), dtype=bool)
        scaled[[self._places[name] for name in quantized if name in self._places]] = True
        self._convert(arithmetic, scaled)
        own = arithmetic[:-1]
        zone = np.append(np.where(self._layers | (own == STATIC), own, arithmetic[self._leaders]), FLOAT)
        written, static, dynamic, plain = self._flow(arithmetic, scaled)
        moved = zone[self._producers] == STATIC
        bits = (written, moved, plain > 0, static > 0, dynamic > 0)
        tensor_signs = sum(bit.astype(np.int64) << index for index, bit in enumerate(bits))
        node_signs = own | (zone[:-1] << 4) | (written[self._written_by].astype(np.int64) << 8)
        return Surroundings(own, node_signs, np.asarray(tensor_signs), written, moved, static, dynamic, plain)

    def _flow(self, arithmetic: Array, scaled: Array) -> tuple[Array, Array, Array, Array]:
        """(tensors,) each: whether an integer kernel writes it, how many read it as static and dynamic integers, as floats."""
        readers = arithmetic[self._read[:, 1]]
        static = self._count(readers == STATIC)
        dynamic = self._count(readers == DYNAMIC)
        plain = self._count((readers != STATIC) & (readers != DYNAMIC)) + self._exits
        must = self._whole[self._producers] | (scaled & (plain + dynamic == 0))
        return (arithmetic[self._producers] == STATIC) & must, static, dynamic, plain

    def _convert(self, arithmetic: Array, scaled: Array) -> None:
        """Make static what the runtime makes so: a convolution in float that reads integers and whose readers all want them.

        It quantizes the weight itself when it loads the model (its pass is called WeightBiasQuantization).
        """
        if not len(self._convertible):
            return
        written, static, dynamic, plain = self._flow(arithmetic, scaled)
        wanted = (static > 0) & (plain + dynamic == 0)
        both = written[self._read_by_convertible] & wanted[self._written_by[self._convertible]]
        arithmetic[self._convertible[both & (arithmetic[self._convertible] == FLOAT)]] = STATIC

    def of_nodes(self, charges: Mapping[str, float]) -> Array:
        """(nodes,) from node -> number."""
        return np.array([charges.get(name, 0.0) for name in self.nodes])

    def of_tensors(self, charges: Mapping[str, float]) -> Array:
        """(tensors,) from tensor -> number."""
        return np.array([charges.get(name, 0.0) for name in self.tensors])

    def _count(self, edges: Array) -> Array:
        """(tensors,) how many of the marked edges leave each tensor."""
        return np.bincount(self._read[edges, 0], minlength=len(self.tensors))

    def _find_leaders(self, anatomy: Anatomy) -> Array:
        """(nodes,) the last layer before each node; one past the last node where there is none."""
        leaders = np.full(len(self.nodes), len(self.nodes))
        for index, name in enumerate(self.nodes):
            before = [self._index[anatomy.producers[item]] for item in anatomy.inputs[name] if item in anatomy.producers]
            found = [int(leaders[item]) for item in before if leaders[item] < len(self.nodes)]
            leaders[index] = index if self._layers[index] else max(found, default=len(self.nodes))
        return leaders


def _elements(name: str, shapes: Shapes) -> int:
    return int(np.prod(shapes[name], dtype=np.int64)) if name in shapes else 0
