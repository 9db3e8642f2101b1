"""Fit the codes of all weights to the data, one layer after the other, each on the inputs that it will really get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompress.decisions import CompressionPlan, Quantize
from qcompress.graph import Model
from qcompress.operators import Layer
from qcompress.planning.means import bias_node, mean_shift
from qcompress.planning.readings import Readings, readings_of
from qcompress.planning.walk import Data, Settled, WalkSettings, walk
from qcompress.progress import SILENT, Progress
from qcompress.prune import compensate
from qcompress.quantize import Evidence, Gram, fit_weight, quantize_weight
from qcompress.quantize.align import Drift, align
from qcompress.types import CodebookScheme, EncodedTensor, FloatScheme, QuantScheme, Rounding

WIDE = 8
"""Bits from which on affine codes are not fitted: rounding to the nearest loses next to nothing."""

PRUNED = 0.05
"""Share of zeros from which they are taken for pruned numbers, which stay zero, and not for chance."""

FITTING = (Rounding.GPTQ, Rounding.FITTED)
"""Roundings that use the correlations of inputs."""


def fit_codes(
    model: Model,
    layers: Sequence[Layer],
    plan: CompressionPlan,
    data: Data,
    settings: WalkSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, Settled]:
    """Fit the codes of every weight that the plan does not leave to its clip factors.

    Weights in bodies, of recurrent layers, looked up or on the left of a product are fitted without correlations. The same
    model, plan, data and number of threads give the same codes.

    Args:
        model: as it is when codes are written: prepared, channels rescaled. It is not changed.
        layers: of this model.
        plan: nothing but the scheme, rounding and clip of its decisions is looked at.
        data: to fit on, read once.
        settings: order, rows, memory.
        progress: gets one stage, a unit for each weight.

    Returns:
        Weight -> codes, for ``apply_plan``, and what their biases must be shifted by. Weights that are rounded by the plan alone, affine with nearest or clipped rounding
        or of eight bits and more, are not among them.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        ModelError: a part of the model does not run.
    """
    settings = settings or WalkSettings()
    tasks = _tasks(layers, plan)
    fitted = [name for name, task in tasks.items() if task.is_fitted]
    with progress.stage("Fitting codes", len(fitted), "weights") as stage:
        return walk(model, tasks, data, settings, stage)


def is_fitted(decision: Quantize) -> bool:
    """Whether the codes of a weight are more than its clip factors determine."""
    scheme, rounding = decision.scheme, decision.rounding
    if not isinstance(scheme, QuantScheme) or rounding is Rounding.HQQ:
        return True
    return rounding in FITTING and scheme.bits < WIDE


@dataclass(frozen=True, slots=True)
class _Task:
    """One weight that takes codes."""

    layer: Layer
    decision: Quantize
    uses: Readings
    center: bool

    @property
    def is_fitted(self) -> bool:
        """Whether its codes are found here, not by the rewriting."""
        return is_fitted(self.decision)

    @property
    def wants_gram(self) -> bool:
        """Whether correlations of its inputs are of use and can be had."""
        scheme, rounding = self.decision.scheme, self.decision.rounding
        used = rounding in FITTING or (isinstance(scheme, CodebookScheme) and rounding is Rounding.CLIP)
        return self.is_fitted and used and not isinstance(scheme, FloatScheme) and bool(self.uses.nodes)

    def settle(self, gram: Gram | None, drift: Drift | None) -> Settled:
        """The codes, as good as they get with what is known."""
        node = bias_node(self.layer, self.uses) if self.center and drift is not None else None
        if gram is None or drift is None or node is None:
            return Settled(self._encode(gram, drift))
        encoded = self._encode(gram.centered(), drift.centered(gram))
        return Settled(encoded, mean_shift(node, self.layer.array, encoded.dequantize(), self.uses, gram, drift))

    def _encode(self, gram: Gram | None, drift: Drift | None) -> EncodedTensor:
        scheme = self.layer.scheme(self.decision.scheme)
        if isinstance(scheme, QuantScheme) and not self.is_fitted:
            return quantize_weight(self.layer.array, scheme, self.decision.clip)
        evidence = Evidence(self.uses.layout, self.uses.groups, gram)
        weight = self.layer.array
        zeros = weight == 0.0
        mask = ~zeros if zeros.mean() >= PRUNED else None
        if drift is not None and len(self.uses.nodes) == len(self.layer.uses):  # a looked-up row must stay what it is
            weight = align(weight, evidence, drift)
            weight = weight if mask is None else compensate(weight, mask, evidence)
        return fit_weight(weight, scheme, self.decision.rounding, evidence, mask)


def _tasks(layers: Sequence[Layer], plan: CompressionPlan) -> dict[str, _Task]:
    """Every weight that the plan gives a scheme."""
    found: dict[str, _Task] = {}
    for layer in layers:
        decision = plan.weights.get(layer.name)
        if isinstance(decision, Quantize):
            found[layer.name] = _Task(layer, decision, readings_of(layer), plan.center)
    return found
