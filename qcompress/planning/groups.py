"""Groups: layers that take one form together, and the forms each group can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from qcompress.decisions import Keep
from qcompress.graph import Node
from qcompress.operators import Layer
from qcompress.types import Form


class Way(StrEnum):
    """What a group becomes."""

    STORED = "stored"
    """Weights stored as codes, arithmetic in float."""
    STATIC = "static"
    """Integers with calibrated ranges."""
    DYNAMIC = "dynamic"
    """Integers with ranges taken at run time."""
    KEPT = "kept"
    """Weights as they came."""


@dataclass(frozen=True, slots=True)
class Group:
    """Layers that change together; ``forms``: way -> weight name -> form."""

    name: str
    layers: tuple[Layer, ...]
    forms: Mapping[Way, Mapping[str, Form | Keep]]

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways the group can go, the safest arithmetic first."""
        return tuple(self.forms)


def find_groups(layers: Sequence[Layer], choices: Mapping[Way, Mapping[str, Form | Keep]]) -> list[Group]:
    """Tie layers that belong together, in graph order.

    Weights of one node (the two of a recurrent operator) and products that read one tensor (query, key and value) share
    what quantizing their input costs and loses.

    Args:
        layers: of the model.
        choices: way -> weight -> the form it takes when everything that can goes that way.
    """
    able = [layer for layer in layers if not isinstance(choices[Way.STORED][layer.name], Keep)]
    home: dict[object, list[Layer]] = {}
    for layer in able:
        keys = _ties(layer)
        joined = list({id(home[key]): home[key] for key in keys if key in home}.values()) or [[]]
        for other in joined[1:]:
            joined[0] += other
        joined[0].append(layer)
        for member in joined[0]:
            home.update((key, joined[0]) for key in _ties(member))
    groups = {id(home[key]): home[key] for layer in able for key in _ties(layer)[:1]}
    return [_group(members, choices) for members in groups.values()]


def _ties(layer: Layer) -> list[object]:
    """What ties a layer to others: its nodes, and for products the tensor they multiply."""
    nodes: list[Node] = [use.node for use in layer.uses]
    keys: list[object] = list(nodes)
    keys += [node.inputs[0] for node in nodes if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None]
    return keys


def _group(members: Sequence[Layer], choices: Mapping[Way, Mapping[str, Form | Keep]]) -> Group:
    stored = {layer.name: choices[Way.STORED][layer.name] for layer in members}
    forms: dict[Way, Mapping[str, Form | Keep]] = {Way.STORED: stored}
    for way, wanted in ((Way.STATIC, Form.STATIC), (Way.DYNAMIC, Form.DYNAMIC)):
        found = {layer.name: choices[way][layer.name] for layer in members if way in choices}
        if found and all(form is wanted for form in found.values()):
            forms[way] = found
    forms[Way.KEPT] = {layer.name: Keep("compressed it would lose more than the budget allows") for layer in members}
    name = members[0].node.name or members[0].name
    return Group(name, tuple(members), forms)
