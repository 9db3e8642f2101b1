"""Walk through a model layer after layer: each gets new values, made for the inputs that it will really get.

The model is cut in front of (nearly) every layer. What crosses the cut is kept for each feed, of the float model and of the
changed one; the Gram matrices of a segment's layers are added up, new values found that also make up for the errors of the
layers before them, and the segment is run with these values. So every node runs a few times however many layers there are, and
the Gram matrices of one segment are held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from qcompress.calibrate import Batch, observe_shapes
from qcompress.calibrate.gram import GramAccumulator, Place, Sampling
from qcompress.graph import Model, extend
from qcompress.graph.edit import set_constant
from qcompress.graph.segments import CutSettings, Segments
from qcompress.planning.pieces import Shapes, Tensors, inner_tensors
from qcompress.planning.readings import Reading, Readings
from qcompress.planning.shelf import Shelf
from qcompress.progress import Stage
from qcompress.quantize import Gram
from qcompress.quantize.align import Drift
from qcompress.rewrite.bias import shift_biases
from qcompress.runtime import Session, SessionSettings, open_session
from qcompress.types import Array, EncodedTensor


@dataclass(frozen=True, slots=True)
class WalkSettings:
    """How to walk.

    ``sequential``: layers get the inputs that the layers before them make with their new values, and aim at the float model's
    outputs; else they get the float model's inputs. ``rows``: to fit each layer on, 0 for as many as its columns ask for.
    ``memory_bytes``: for what crosses between segments, all feeds together; what does not fit goes to temporary files.
    ``held_out``: share of the samples that shrinkage is chosen on. ``shapes``: of every tensor in the first feed, when they are
    known.
    """

    threads: int = 0
    sequential: bool = True
    rows: int = 0
    memory_bytes: int = 1 << 30
    held_out: float = 0.25
    shapes: Shapes = field(default_factory=dict)


Shifts = Mapping[str, tuple[float, ...]]
"""Node -> what is added to its bias, per output channel."""


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What became of a weight, and what must be added to biases for it."""

    tensor: EncodedTensor
    shifts: Shifts = field(default_factory=dict)


class Task(Protocol):
    """One weight that gets new values."""

    @property
    def uses(self) -> Readings:
        """Where it meets activations."""

    @property
    def is_fitted(self) -> bool:
        """Whether its values are wanted; those of the others are passed through as they are settled without evidence."""

    @property
    def wants_gram(self) -> bool:
        """Whether correlations of its inputs are of use and can be had."""

    def settle(self, gram: Gram | None, drift: Drift | None) -> Settled:
        """Its new values, as good as they get with what is known."""


class Data(Protocol):
    """Samples to fit on."""

    def batches(self) -> Iterator[Batch]:
        """Read them once, in the same order at every call."""


class NoData:
    """No samples: what is fitted to the weights alone needs none."""

    def batches(self) -> Iterator[Batch]:
        """Nothing."""
        return iter(())


def walk(model: Model, tasks: Mapping[str, Task], data: Data, settings: WalkSettings, stage: Stage) -> dict[str, Settled]:
    """Settle every fitted task, in the order of ``tasks``; the same data and number of threads give the same values.

    Args:
        model: not changed.
        tasks: weight -> task.
        data: read once.
        settings: order, rows, memory.
        stage: advanced by one for each fitted weight.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        ModelError: a part of the model does not run.
    """
    fitted = [name for name, task in tasks.items() if task.is_fitted]
    done: dict[str, Settled] = {}
    for name in fitted:
        if not tasks[name].wants_gram:
            done[name] = tasks[name].settle(None, None)
            stage.advance()
    if len(done) < len(fitted):
        with TemporaryDirectory(prefix="qcompress-") as folder:
            way = _Walk(model, tasks, settings, done)
            if way.start(data, Path(folder)):
                for number in range(way.last + 1):
                    stage.advance(way.step(number))
    for name in fitted:
        if name not in done:
            done[name] = tasks[name].settle(None, None)
    return {name: done[name] for name in fitted}


Compress = Callable[[Model, int], None]
"""Gives the weights of a segment, of the given number, the values they will have."""


class _Line:
    """One run of all feeds, segment after segment: of the float model, or with compressed weights (``compress``)."""

    def __init__(self, segments: Segments, tensors: Tensors, threads: int, shelf: Shelf, compress: Compress | None) -> None:
        self._segments, self._tensors, self._threads = segments, tensors, threads
        self._shelf, self._compress = shelf, compress

    def tensors(self, number: int, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Tensors of a segment in each feed, without running more than what makes them."""
        stored = [name for name in wanted if name in self._shelf]
        made = [name for name in wanted if name not in stored]
        session = self._open(number, made) if made else None
        inputs = self._segments.between(number, number).inputs if made else ()
        taken = dict.fromkeys([*stored, *inputs])
        for feed in range(len(self._shelf)) if wanted else ():
            given = self._shelf.take(feed, taken)
            yield given if session is None else given | session.run({name: given[name] for name in inputs}, made)

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
    """The way through the segments; ``done`` fills up on it."""

    def __init__(self, model: Model, tasks: Mapping[str, Task], settings: WalkSettings, done: dict[str, Settled]) -> None:
        self._model, self._tasks, self._settings, self._done = model, tasks, settings, done
        self._stand_ins: dict[str, Settled] = {}
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
        made = {output.name: index[node.name] for node in self._model.graph if node.name in index for output in node.outputs}
        self._readings: list[list[tuple[str, Reading]]] = [[] for _ in range(len(segments))]
        self._due: list[list[str]] = [[] for _ in range(len(segments))]
        for name, task in self._tasks.items():
            if task.wants_gram:
                inside = [(index[reading.node], reading) for reading in task.uses.nodes if reading.node in index]
                for number, reading in inside:
                    settled = len(inside) == 1 and made.get(reading.beside, number) < number
                    self._readings[number].append((name, reading if settled else replace(reading, beside="")))
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
        readings = [reading for _, reading in self._readings[number]]
        beside = [reading.beside for reading in readings if reading.beside and self._changed is not None]
        wanted = list(dict.fromkeys([*(reading.tensor for reading in readings), *beside]))
        exact = self._exact.tensors(number, wanted)
        changed = exact if self._changed is None else self._changed.tensors(number, wanted)
        for place, values in zip(self._places, changed, strict=False):
            aims = {} if self._changed is None else next(exact)
            for name, reading in self._readings[number]:
                if name not in self._accumulators:
                    self._accumulators[name] = GramAccumulator(reading.rows, self._sampling)
                added = (aims[reading.beside], values[reading.beside]) if reading.beside in aims else None
                self._accumulators[name].add(values[reading.tensor], reading.rows, place, aims.get(reading.tensor), added)

    def _fit(self, name: str) -> None:
        """Settle a weight whose last rows are in."""
        accumulator, task = self._accumulators.pop(name, None), self._tasks[name]
        if accumulator is None:
            self._done[name] = task.settle(None, None)
        else:
            self._done[name] = task.settle(accumulator.gram(task.uses.nodes[0].tensor), accumulator.drift())
        self._stand_ins.pop(name, None)

    def _compress(self, piece: Model, number: int) -> None:
        """Give the weights of a segment the values they will have.

        Those that are about to be settled stay float; one that is settled further on gets a stand-in.
        """
        shifts: dict[str, tuple[float, ...]] = {}
        for graph in piece.ir.graphs():
            for name, value in graph.initializers.items():
                if name not in self._tasks or (name not in self._done and name in self._due[number]):
                    continue
                if name not in self._done and name not in self._stand_ins:
                    self._stand_ins[name] = self._tasks[name].settle(None, None)
                known = self._done.get(name) or self._stand_ins[name]
                set_constant(value, known.tensor.dequantize())
                shifts.update(known.shifts)
        shift_biases(piece, shifts)
