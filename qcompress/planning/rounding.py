"""Fit the codes of all weights to the data, one layer after the other, each on the inputs that it will really get.

The model is cut in front of (nearly) every layer. What crosses the cut is kept for each feed, of the float model and of the
compressed one; the Gram matrices of a segment's layers are added up, their codes fitted so that they also make up for the errors
of the layers before them, and the segment is run with these codes. So every node runs a few times however many layers there are,
and the Gram matrices of one segment are held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from qcompress.calibrate import Batch, observe_shapes
from qcompress.calibrate.gram import GramAccumulator, Place, Sampling
from qcompress.decisions import CompressionPlan, Quantize
from qcompress.graph import Model, extend
from qcompress.graph.edit import set_constant
from qcompress.graph.segments import CutSettings, Segments
from qcompress.operators import Layer
from qcompress.planning.pieces import Shapes, Tensors, inner_tensors
from qcompress.planning.readings import Reading, Readings, readings_of
from qcompress.planning.shelf import Shelf
from qcompress.progress import SILENT, Progress
from qcompress.quantize import Evidence, Gram, fit_weight, quantize_weight
from qcompress.quantize.align import Drift, align
from qcompress.runtime import Session, SessionSettings, open_session
from qcompress.types import Array, CodebookScheme, EncodedTensor, FloatScheme, QuantScheme, Rounding

WIDE = 8
"""Bits from which on affine codes are not fitted: rounding to the nearest loses next to nothing."""

FITTING = (Rounding.GPTQ, Rounding.FITTED)
"""Roundings that use the correlations of inputs."""


@dataclass(frozen=True, slots=True)
class RoundingSettings:
    """How to fit codes.

    ``sequential``: layers get the inputs that the layers before them make with their fitted codes, and aim at the float
    model's outputs; else they get the float model's inputs. ``rows``: to fit each layer on, 0 for as many as its columns ask for. ``memory_bytes``: for what crosses between
    segments, all feeds together; what does not fit goes to temporary files. ``held_out``: share of the samples that shrinkage
    is chosen on. ``shapes``: of every tensor in the first feed, when they are known.
    """

    threads: int = 0
    sequential: bool = True
    rows: int = 0
    memory_bytes: int = 1 << 30
    held_out: float = 0.25
    shapes: Shapes = field(default_factory=dict)


Compress = Callable[[Model, int], None]
"""Gives the weights of a segment, of the given number, the values they will have."""


class Data(Protocol):
    """Samples to fit on."""

    def batches(self) -> Iterator[Batch]:
        """Read them once, in the same order at every call."""


def fit_codes(
    model: Model,
    layers: Sequence[Layer],
    plan: CompressionPlan,
    data: Data,
    settings: RoundingSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, EncodedTensor]:
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
        Weight -> codes, for ``apply_plan``. Weights that are rounded by the plan alone, affine with nearest or clipped rounding
        or of eight bits and more, are not among them.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        ModelError: a part of the model does not run.
    """
    settings = settings or RoundingSettings()
    tasks = _tasks(layers, plan)
    fitted = [name for name, task in tasks.items() if task.is_fitted]
    with progress.stage("Fitting codes", len(fitted), "weights") as stage:
        codes: dict[str, EncodedTensor] = {}
        for name in fitted:
            if not tasks[name].wants_gram:
                codes[name] = tasks[name].encode(None)
                stage.advance()
        if len(codes) < len(fitted):
            with TemporaryDirectory(prefix="qcompress-") as folder:
                walk = _Walk(model, tasks, settings, codes)
                if walk.start(data, Path(folder)):
                    for number in range(walk.last + 1):
                        stage.advance(walk.step(number))
        for name in fitted:
            codes[name] = codes[name] if name in codes else tasks[name].encode(None)
    return {name: codes[name] for name in fitted}


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

    def encode(self, gram: Gram | None, drift: Drift | None = None) -> EncodedTensor:
        """The codes, as good as they get with what is known."""
        scheme = self.layer.scheme(self.decision.scheme)
        if isinstance(scheme, QuantScheme) and not self.is_fitted:
            return quantize_weight(self.layer.array, scheme, self.decision.clip)
        evidence = Evidence(self.uses.layout, self.uses.groups, gram)
        weight = self.layer.array
        if drift is not None and len(self.uses.nodes) == len(self.layer.uses):  # a looked-up row must stay what it is
            weight = align(weight, evidence, drift)
        return fit_weight(weight, scheme, self.decision.rounding, evidence)


def _tasks(layers: Sequence[Layer], plan: CompressionPlan) -> dict[str, _Task]:
    """Every weight that the plan gives a scheme."""
    found: dict[str, _Task] = {}
    for layer in layers:
        decision = plan.weights.get(layer.name)
        if isinstance(decision, Quantize):
            found[layer.name] = _Task(layer, decision, readings_of(layer))
    return found


class _Line:
    """One run of all feeds, segment after segment: of the float model, or with compressed weights (``compress``)."""

    def __init__(self, segments: Segments, tensors: Tensors, threads: int, shelf: Shelf, compress: Compress | None) -> None:
        self._segments, self._tensors, self._threads = segments, tensors, threads
        self._shelf, self._compress = shelf, compress

    def tensors(self, number: int, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Tensors of a segment in each feed, without running more than what makes them."""
        inputs = self._segments.between(number, number).inputs
        made = [name for name in wanted if name not in inputs]
        session = self._open(number, made) if made else None
        for feed in range(len(self._shelf)) if wanted else ():
            given = self._shelf.take(feed, inputs if made else wanted)
            yield given if session is None else given | session.run(given, made)

    def pass_on(self, number: int, last: int) -> None:
        """Run a segment and keep what those behind it, to the ``last`` one, read."""
        here = self._segments.between(number, number)
        kept = {name for later in range(number + 1, last + 1) for name in self._segments.between(later, later).inputs}
        outputs = [name for name in here.outputs if name in kept]
        session = self._open(number, outputs) if outputs else None
        for feed in range(len(self._shelf)):
            made = {} if session is None else session.run(self._shelf.take(feed, here.inputs), outputs)
            self._shelf.keep_only(feed, kept)
            for name, array in made.items():
                self._shelf.put(feed, name, array)

    def _open(self, number: int, outputs: Sequence[str]) -> Session:
        """A segment as a session; what the outputs do not need is not run."""
        piece = self._segments.extract(number, number, self._tensors.types)
        if self._compress is not None:
            self._compress(piece, number)
        settings = SessionSettings(threads=self._threads, spinning=False, arena=False)
        return open_session(extend(piece, [], {}, outputs), settings)


class _Walk:
    """The way through the segments; ``codes`` fills up on it."""

    def __init__(
        self, model: Model, tasks: Mapping[str, _Task], settings: RoundingSettings, codes: dict[str, EncodedTensor]
    ) -> None:
        self._model, self._tasks, self._settings, self._codes = model, tasks, settings, codes
        self._stand_ins: dict[str, EncodedTensor] = {}
        self._accumulators: dict[str, GramAccumulator] = {}
        self._places: list[Place] = []

    def start(self, data: Data, folder: Path) -> bool:
        """Read all feeds and cut the model; False if there are no feeds."""
        settings = self._settings
        names = ("exact", "changed") if settings.sequential else ("exact",)
        shelves = [Shelf(folder / name, settings.memory_bytes // len(names)) for name in names]
        samples = 0
        for batch in data.batches():
            for shelf in shelves:
                shelf.add(batch.feed)
            self._places.append(Place(samples, batch.samples))
            samples += batch.samples
        if not samples:
            return False
        self._sampling = Sampling(samples, settings.held_out, settings.rows)
        first = shelves[0].take(0, [item.name for item in self._model.inputs])
        shapes = settings.shapes or observe_shapes(self._model, first)
        tensors = Tensors.of(self._model, shapes)
        nodes = {reading.node for task in self._tasks.values() if task.wants_gram for reading in task.uses.nodes}
        costs = {node.name or "": float(node.name in nodes) for node in self._model.graph}
        inner = inner_tensors(self._model, tensors)
        segments = Segments(self._model, CutSettings(len(nodes), costs, tensors.sizes, inner))
        self._exact = _Line(segments, tensors, settings.threads, shelves[0], None)
        self._changed = (
            _Line(segments, tensors, settings.threads, shelves[-1], self._compress) if settings.sequential else None
        )
        self._sort(segments)
        return True

    def _sort(self, segments: Segments) -> None:
        """Find what is read in which segment, and where the last rows of each weight are in."""
        index = segments.index()
        self._readings: list[list[tuple[str, Reading]]] = [[] for _ in range(len(segments))]
        self._due: list[list[str]] = [[] for _ in range(len(segments))]
        for name, task in self._tasks.items():
            if task.wants_gram:
                inside = [(index[reading.node], reading) for reading in task.uses.nodes if reading.node in index]
                for number, reading in inside:
                    self._readings[number].append((name, reading))
                self._due[max((number for number, _ in inside), default=0)].append(name)
        self.last = max(number for number, due in enumerate(self._due) if due)

    def step(self, number: int) -> int:
        """Fit the layers of a segment and pass on what the next ones need; returns how many were fitted."""
        self._collect(number)
        for name in self._due[number]:
            self._fit(name)
        for line in (self._exact, self._changed):
            if line is not None and number < self.last:
                line.pass_on(number, self.last)
        return len(self._due[number])

    def _collect(self, number: int) -> None:
        """Add up the Gram matrices of a segment's layers."""
        wanted = list(dict.fromkeys(reading.tensor for _, reading in self._readings[number]))
        exact = self._exact.tensors(number, wanted)
        changed = exact if self._changed is None else self._changed.tensors(number, wanted)
        for place, values in zip(self._places, changed, strict=False):
            aims = {} if self._changed is None else next(exact)
            for name, reading in self._readings[number]:
                if name not in self._accumulators:
                    self._accumulators[name] = GramAccumulator(reading.rows, self._sampling)
                self._accumulators[name].add(values[reading.tensor], reading.rows, place, aims.get(reading.tensor))

    def _fit(self, name: str) -> None:
        """Fit a weight whose last rows are in."""
        accumulator, task = self._accumulators.pop(name, None), self._tasks[name]
        if accumulator is None:
            self._codes[name] = task.encode(None)
        else:
            self._codes[name] = task.encode(accumulator.gram(task.uses.nodes[0].tensor), accumulator.drift())
        self._stand_ins.pop(name, None)

    def _compress(self, piece: Model, number: int) -> None:
        """Give the weights of a segment the values they will have.

        Those that are about to be fitted stay float; one that is fitted further on gets a stand-in.
        """
        for graph in piece.ir.graphs():
            for name, value in graph.initializers.items():
                if name not in self._tasks or (name not in self._codes and name in self._due[number]):
                    continue
                if name not in self._codes and name not in self._stand_ins:
                    self._stand_ins[name] = self._tasks[name].encode(None)
                known = self._codes.get(name)
                set_constant(value, (self._stand_ins[name] if known is None else known).dequantize())
