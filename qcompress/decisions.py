"""A plan: for every weight a form or the reason it is kept, for every quantized activation its scale; JSON out and in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qcompress.errors import RecipeError
from qcompress.types import Criterion, Form, Pattern, Prune, QuantScheme, Rounding, Scheme, parse_scheme

PLAN_VERSION = 3


@dataclass(frozen=True, slots=True)
class Quantize:
    """A weight takes ``form`` with ``scheme``; ``clip``: factors on each group's range, one for all when equal.

    ``rounding``: how its codes are chosen. Codes that were fitted to data are not part of a plan.
    """

    form: Form
    scheme: Scheme
    clip: tuple[float, ...] = ()
    rounding: Rounding = Rounding.CLIP


@dataclass(frozen=True, slots=True)
class Keep:
    """A weight stays as it is, for a reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class ActivationPlan:
    """The scale and zero point of one quantized tensor."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """Everything the rewriting needs apart from the model, so that a plan can be replayed without data.

    ``source``: digest of the model file. ``weights``: weight name -> decision. ``activation_scheme``: of every quantized
    tensor. ``activations``: tensor -> scale and zero point. ``integer_nodes``: nodes that compute on integers.
    ``bias_shifts``: node -> what is added to its bias, per output channel. ``channel_scales``: tensor -> what each of its
    channels is divided by, and what reads it multiplied by, before anything else. ``notes``: what was tried and why not.
    ``loss``: of the whole compressed model, measured on held-out samples, None where nothing was searched; ``budget``: what
    was allowed. ``machine``: where the times were measured that forms were chosen by. ``opset``: the operator set the model was
    raised to before anything else, None in plans that are older than this. ``sequential``: codes are fitted on what compressed
    layers give. ``prunes``: weight -> what is pruned of it before everything else, and after that ``channels``: group of channels
    -> the units that stay, all others are cut out of the model; ``compensate``: what reads those that stay is solved again.
    ``center``: codes fitted in sequence leave the means of outputs to biases.
    """

    source: str
    recipe: str
    weights: Mapping[str, Quantize | Keep]
    activation_scheme: QuantScheme
    activations: Mapping[str, ActivationPlan] = field(default_factory=dict)
    integer_nodes: tuple[str, ...] = ()
    bias_shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    channel_scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    loss: float | None = None
    budget: float | None = None
    machine: Mapping[str, str | int] = field(default_factory=dict)
    opset: int | None = None
    sequential: bool = True
    prunes: Mapping[str, Prune] = field(default_factory=dict)
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    compensate: bool = True
    center: bool = True
    version: int = PLAN_VERSION

    def to_json(self) -> str:
        """The plan as JSON: the same plan gives the same bytes."""
        weights = {name: _decision_to_json(decision) for name, decision in self.weights.items()}
        activations = {name: [item.scale, item.zero_point] for name, item in self.activations.items()}
        table: dict[str, Any] = {
            "version": self.version,
            "source": self.source,
            "recipe": self.recipe,
            "activation_scheme": str(self.activation_scheme),
            "weights": weights,
            "activations": activations,
            "integer_nodes": list(self.integer_nodes),
            "bias_shifts": {name: list(shift) for name, shift in self.bias_shifts.items()},
            "channel_scales": {name: list(scales) for name, scales in self.channel_scales.items()},
            "notes": list(self.notes),
            "loss": self.loss,
            "budget": self.budget,
            "machine": dict(self.machine),
            "opset": self.opset,
            "sequential": self.sequential,
            "center": self.center,
        }
        if self.prunes:
            table["prunes"] = {name: _prune_to_json(prune) for name, prune in self.prunes.items()}
        if self.channels:
            table["channels"] = {name: list(kept) for name, kept in self.channels.items()}
            table["compensate"] = self.compensate
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {_lines(value)}" for key, value in table.items()) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> CompressionPlan:
        """Read a plan.

        Raises:
            RecipeError: not JSON, or not a plan of this version.
        """
        try:
            table = json.loads(text)
            if table["version"] != PLAN_VERSION:
                raise RecipeError(f"the plan has version {table['version']}, not {PLAN_VERSION}", "make the plan again")
            return cls(
                source=str(table["source"]),
                recipe=str(table["recipe"]),
                weights={name: _decision_from_json(item) for name, item in table["weights"].items()},
                activation_scheme=QuantScheme.parse(table["activation_scheme"]),
                activations={
                    name: ActivationPlan(float(item[0]), int(item[1])) for name, item in table["activations"].items()
                },
                integer_nodes=tuple(str(name) for name in table["integer_nodes"]),
                bias_shifts={name: tuple(float(x) for x in shift) for name, shift in table["bias_shifts"].items()},
                channel_scales={name: tuple(float(x) for x in scales) for name, scales in table["channel_scales"].items()},
                notes=tuple(str(note) for note in table["notes"]),
                loss=None if table["loss"] is None else float(table["loss"]),
                budget=None if table["budget"] is None else float(table["budget"]),
                machine=dict(table["machine"]),
                opset=None if table.get("opset") is None else int(table["opset"]),
                sequential=bool(table.get("sequential", True)),
                center=bool(table["center"]),
                prunes={name: _prune_from_json(item) for name, item in table.get("prunes", {}).items()},
                compensate=bool(table.get("compensate", True)),
                channels={name: tuple(int(unit) for unit in kept) for name, kept in table.get("channels", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise RecipeError(f"this is not a plan: {error!r}", "make one with qcompress plan") from error


def _lines(value: object) -> str:
    """A JSON value with one line for each entry of a table, so that plans can be read and compared."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    entries = (
        f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items()
    )
    return "{\n" + ",\n".join(entries) + "\n }"


def _decision_to_json(decision: Quantize | Keep) -> dict[str, Any]:
    if isinstance(decision, Keep):
        return {"keep": decision.reason}
    table: dict[str, Any] = {"form": decision.form.value, "scheme": str(decision.scheme)}
    if decision.clip:
        table["clip"] = list(decision.clip)
    if decision.rounding is not Rounding.CLIP:
        table["rounding"] = decision.rounding.value
    return table


def _decision_from_json(table: Mapping[str, Any]) -> Quantize | Keep:
    if "keep" in table:
        return Keep(str(table["keep"]))
    clip = tuple(float(factor) for factor in table.get("clip", ()))
    rounding = Rounding(table.get("rounding", Rounding.CLIP))
    return Quantize(Form(table["form"]), parse_scheme(table["scheme"]), clip, rounding)


def _prune_to_json(prune: Prune) -> dict[str, Any]:
    table: dict[str, Any] = {
        "sparsity": prune.sparsity,
        "criterion": prune.criterion.value,
        "pattern": str(prune.pattern),
        "compensate": prune.compensate,
    }
    return table if prune.threshold is None else {**table, "threshold": prune.threshold}


def _prune_from_json(table: Mapping[str, Any]) -> Prune:
    threshold = None if "threshold" not in table else float(table["threshold"])
    pattern = Pattern.parse(table["pattern"])
    return Prune(float(table["sparsity"]), Criterion(table["criterion"]), pattern, threshold, bool(table["compensate"]))
