"""Measured milliseconds of a model and its variants, by node and by tensor, as data that can be kept in a file.

A *variant* is the model under one assignment of forms that was really run: all float, all static, and so on. Its time is
divided among the nodes of the prepared model and the tensors between them; all parts together are the time that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qcompress.errors import RecipeError
from qcompress.results import MachineFacts

COST_VERSION = 1

FLOAT = "float"
"""The variant without any form: the prepared model."""


@dataclass(frozen=True, slots=True)
class Charges:
    """Milliseconds of one run, divided.

    ``nodes``: node -> what it takes itself. ``quantize``, ``dequantize``, ``dynamic``: tensor -> quantizing it with a known
    scale, turning it back, quantizing it with a scale found at run time. ``layout``: tensor -> turning it from one memory
    layout into another.
    """

    nodes: Mapping[str, float] = field(default_factory=dict)
    quantize: Mapping[str, float] = field(default_factory=dict)
    dequantize: Mapping[str, float] = field(default_factory=dict)
    dynamic: Mapping[str, float] = field(default_factory=dict)
    layout: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All milliseconds."""
        return sum(sum(getattr(self, item.name).values()) for item in fields(self))

    def scaled(self, factor: float) -> Charges:
        """The same proportions with another total."""
        return Charges(
            **{item.name: {name: ms * factor for name, ms in getattr(self, item.name).items()} for item in fields(self)}
        )


@dataclass(frozen=True, slots=True)
class VariantCost:
    """What one variant was and what it took.

    ``ms``: median of whole runs. ``forms``: weight -> form (kept weights left out). ``integer_nodes``: nodes that compute on
    calibrated integers. ``tensors``: tensors with a calibrated scale.
    """

    ms: float
    forms: Mapping[str, str]
    integer_nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    charges: Charges


@dataclass(frozen=True, slots=True)
class CostTable:
    """Measured costs of one model on one machine.

    ``source``: digest of the model file. ``source_ms``: of the model as the user gave it, which speed-up is measured
    against. ``variants``: the float model first.
    """

    source: str
    source_ms: float
    machine: MachineFacts
    variants: Mapping[str, VariantCost]

    def to_json(self) -> str:
        """The table as text, the same bytes for the same table."""
        content = {"version": COST_VERSION, **asdict(self)}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CostTable:
        """Read a table.

        Raises:
            RecipeError: not JSON, or not a cost table of this version.
        """
        try:
            content = json.loads(text)
            if content["version"] != COST_VERSION:
                raise RecipeError(f"the cost file has version {content['version']}, not {COST_VERSION}", "measure it again")
            machine, variants = content["machine"], content["variants"]
            if next(iter(variants), None) != FLOAT:
                raise ValueError("the first variant is not the float model")
            return cls(
                source=str(content["source"]),
                source_ms=_milliseconds(content["source_ms"]),
                machine=MachineFacts(
                    str(machine["cpu"]),
                    str(machine["architecture"]),
                    int(machine["cores"]),
                    int(machine["threads"]),
                    str(machine["runtime"]),
                ),
                variants={str(name): _variant(item) for name, item in variants.items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"this is not a cost file: {error!r}", "leave it out to have the costs measured") from error


def _variant(item: Mapping[str, Any]) -> VariantCost:
    charges = {
        part.name: {str(name): _milliseconds(ms) for name, ms in item["charges"][part.name].items()}
        for part in fields(Charges)
    }
    return VariantCost(
        _milliseconds(item["ms"]),
        {str(weight): str(form) for weight, form in item["forms"].items()},
        tuple(str(name) for name in item["integer_nodes"]),
        tuple(str(name) for name in item["tensors"]),
        Charges(**charges),
    )


def _milliseconds(value: object) -> float:
    """A time that was really measured.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a time")
    return float(value)
