"""What the model's outputs lose when some layers change form, measured by running the rewritten layers.

The float model is cut into segments. What crosses from one to the next is kept for each feed, so that to measure a change only
the segment it lies in is rewritten and loaded, and only that segment and those behind it are run.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter

from qcompress.calibrate import observe_shapes
from qcompress.data.batch import count_samples
from qcompress.decisions import CompressionPlan
from qcompress.graph import Model
from qcompress.graph.outputs import states
from qcompress.graph.segments import Segment, Segments
from qcompress.measure.loss import OutputLoss, Yardstick, yardstick
from qcompress.planning.pieces import Cutter, Shapes, Tensors, cut, open_piece
from qcompress.progress import SILENT, Progress
from qcompress.rewrite import apply_plan
from qcompress.rewrite.apply import NOTHING_FITTED
from qcompress.runtime import Session
from qcompress.types import Array, EncodedTensor, Feed

LEAST_FEEDS = 2
"""Fewer segments are taken before fewer feeds than this: one feed alone says too little."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How to measure losses.

    ``memory_bytes``: for what is kept of the float model's run. ``segments``: how many to cut the model into, about.
    ``shapes``: of every tensor in the first feed, when they are known.
    """

    threads: int = 0
    memory_bytes: int = 1 << 30
    segments: int = 12
    shapes: Shapes = field(default_factory=dict)


class LossMeter:
    """Losses of plans for one prepared model, on samples that nothing is fitted on; the model must not be changed meanwhile.

    Memory: the judged outputs of every feed are kept in any case. If what crosses between segments does not fit beside them
    into ``memory_bytes``, ``alone`` takes fewer feeds, but not fewer than two; then the model is cut into fewer segments; at
    last it is one segment, nothing but the outputs is kept, and every measurement runs the whole model.
    """

    def __init__(
        self,
        model: Model,
        feeds: Sequence[Feed],
        judged: Sequence[str],
        settings: LossSettings | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Cut the model; it is first run when something is asked.

        Args:
            model: prepared.
            feeds: held-out samples, at least one feed.
            judged: names of the outputs that count, from ``graph.outputs.judged_outputs``.
            settings: threads, memory, number of segments.
            progress: gets one stage when the float model is run.

        Raises:
            ModelError: the model does not run on the first feed.
        """
        self._model = model
        self._feeds = list(feeds)
        self._settings = settings or LossSettings()
        self._progress = progress
        shapes = self._settings.shapes or observe_shapes(model, self._feeds[0])
        tensors = Tensors.of(model, shapes)
        computed = {value.name for node in model.graph for value in node.outputs}
        self.judged = tuple(name for name in judged if name in computed)  # others are inputs or constants: nothing is lost
        segments, self.feeds_alone = _affordable(model, tensors, shapes, self._settings, (len(self._feeds), self.judged))
        self._line = _FloatLine(segments, tensors, self._settings.threads, self.judged)
        self._cutter = Cutter(model, segments, tensors)

    @property
    def segments(self) -> int:
        """How many segments the model was cut into."""
        return len(self._line.segments)

    @property
    def float_outputs(self) -> list[dict[str, Array]]:
        """The judged outputs of the float model, one table a feed."""
        return [{name: known[name] for name in self.judged} for known in self._known]

    @property
    def seconds_per_run(self) -> float:
        """Seconds the float model takes for one feed."""
        return sum(self._line.seconds) if self._known else 0.0

    def alone(
        self,
        plan: CompressionPlan,
        feeds: int | None = None,
        codes: Mapping[str, EncodedTensor] = NOTHING_FITTED,
    ) -> float:
        """The loss when only the layers of this (partial) plan change; 0 to 1.

        Args:
            plan: of some of the layers; those it does not name stay float.
            feeds: take only so many, ``feeds_alone`` at most and by default; for a first look at a slow model.
            codes: weight -> what was fitted to data for it.

        Raises:
            RecipeError: the plan wants what the model does not have.
            ModelError: the rewritten layers do not run.
        """
        spans = self._cutter.spans(plan)
        known = self._known[: min(feeds or self.feeds_alone, self.feeds_alone)]
        if not spans:
            return 0.0
        changed = {
            first: (last, open_piece(self._cutter.rewritten(plan, (first, last), codes), self._settings.threads))
            for first, last in spans
        }
        found = self._losses()
        for feed, kept in zip(self._feeds, known, strict=False):
            outputs = self._line.continue_with(kept, changed)
            for name, loss in found.items():
                loss.add(kept[name], outputs[name], count_samples(feed))
        return _worst(found)

    def joint(
        self,
        plan: CompressionPlan,
        feeds: Iterable[Feed] | None = None,
        codes: Mapping[str, EncodedTensor] = NOTHING_FITTED,
    ) -> float:
        """The loss of the whole model rewritten, as it will be written, on all feeds or on others; 0 to 1.

        ``codes``: weight -> what was fitted to data for it.

        Raises:
            RecipeError: the plan wants what the model does not have.
            ModelError: the rewritten model does not run.
        """
        candidate = self._model.clone()
        apply_plan(plan, candidate, codes=codes)
        return self.of(candidate, feeds)

    def of(self, candidate: Model, feeds: Iterable[Feed] | None = None) -> float:
        """The loss of any model with the inputs and outputs of this one, on all feeds or on others; 0 to 1.

        Raises:
            ModelError: it does not run.
        """
        references = zip(self._feeds, self._known, strict=True) if feeds is None else self._run_float(feeds)
        session = open_piece(candidate, self._settings.threads)
        found = self._losses()
        for feed, known in references:
            outputs = session.run(feed, self.judged)
            for name, loss in found.items():
                loss.add(known[name], outputs[name], count_samples(feed))
        return _worst(found)

    def estimate(self, groups: Iterable[Collection[str]], feeds: int | None = None) -> float:
        """About how many seconds ``alone`` takes for all of the groups, each of them names of weights."""
        feeds = min(feeds or self.feeds_alone, self.feeds_alone, len(self._known))
        total = 0.0
        for names in groups:
            for span in self._cutter.of_weights(sorted(names))[:1]:
                total += sum(self._line.opening[span[0] : span[1] + 1]) + feeds * sum(self._line.seconds[span[0] :])
        return total

    def _losses(self) -> dict[str, OutputLoss]:
        return {name: OutputLoss(how) for name, how in self.yardsticks.items()}

    @cached_property
    def yardsticks(self) -> dict[str, Yardstick]:
        """How each judged output is compared."""
        signatures = {output.name: output for output in self._model.outputs}
        carried = states(self._model)
        return {
            name: yardstick(signatures[name], (known[name] for known in self._known), name in carried)
            for name in self.judged
        }

    @cached_property
    def _known(self) -> list[dict[str, Array]]:
        """Of each feed: itself and the judged outputs; of the first ones also what crosses between segments."""
        known: list[dict[str, Array]] = []
        with self._progress.stage("Running the float model", len(self._feeds), "feeds") as stage:
            for index, feed in enumerate(self._feeds):
                known.append(self._line.run(feed, keep_crossing=index < self.feeds_alone))
                stage.advance()
        return known

    def _run_float(self, feeds: Iterable[Feed]) -> Iterator[tuple[Feed, Mapping[str, Array]]]:
        return ((feed, self._line.run(feed, keep_crossing=False)) for feed in feeds)


class _FloatLine:
    """The float segments, each opened when it is first run."""

    def __init__(self, segments: Segments, tensors: Tensors, threads: int, judged: Sequence[str]) -> None:
        self.segments: list[Segment] = [segments.between(number, number) for number in range(len(segments))]
        self.opening = [0.0] * len(segments)
        """Seconds to load each segment."""
        self.seconds = [0.0] * len(segments)
        """Least seconds each segment took for a feed."""
        self._cut, self._tensors, self._threads, self._judged = segments, tensors, threads, frozenset(judged)
        self._sessions: dict[int, Session] = {}
        self._wanted = self._judged | set(segments.crossing)
        self._last_use = {name: number for number, segment in enumerate(self.segments) for name in segment.inputs}

    def run(self, feed: Feed, keep_crossing: bool) -> dict[str, Array]:
        """The feed and the judged outputs of a whole run, and if wanted all that crossed between segments."""
        values: dict[str, Array] = dict(feed)
        for number in range(len(self.segments)):
            values.update(self._run(number, values))
            if not keep_crossing:
                done = [name for name in values if self._last_use.get(name, -1) <= number and name not in feed]
                for name in done:
                    if name not in self._judged:
                        del values[name]
        return values

    def continue_with(self, known: Mapping[str, Array], changed: Mapping[int, tuple[int, Session]]) -> Mapping[str, Array]:
        """All values of a run in which some runs of segments are changed.

        Args:
            known: what is kept of the float run.
            changed: first segment -> last segment and the session that takes their place.
        """
        new: dict[str, Array] = {}
        values = ChainMap(new, dict(known))
        number = min(changed)
        while number < len(self.segments):
            if number in changed:
                last, session = changed[number]
                new.update(_step(session, self._cut.between(number, last), values, self._wanted))
                number = last + 1
            else:
                if any(name in new for name in self.segments[number].inputs):  # else the float run's values hold
                    new.update(self._run(number, values))
                number += 1
        return values

    def _run(self, number: int, values: Mapping[str, Array]) -> dict[str, Array]:
        if number not in self._sessions:
            start = perf_counter()
            self._sessions[number] = open_piece(self._cut.extract(number, number, self._tensors.types), self._threads)
            self.opening[number] = perf_counter() - start
        start = perf_counter()
        found = _step(self._sessions[number], self.segments[number], values, self._wanted)
        seconds = perf_counter() - start
        self.seconds[number] = min(self.seconds[number], seconds) if self.seconds[number] else seconds
        return found


def _step(session: Session, segment: Segment, values: Mapping[str, Array], wanted: Collection[str]) -> dict[str, Array]:
    """The outputs of a segment that anybody wants."""
    outputs = [name for name in segment.outputs if name in wanted]
    return session.run({name: values[name] for name in segment.inputs}, outputs) if outputs else {}


def _affordable(
    model: Model, tensors: Tensors, shapes: Shapes, settings: LossSettings, wanted: tuple[int, Sequence[str]]
) -> tuple[Segments, int]:
    """As many segments and feeds as memory allows: fewer feeds first, then fewer segments, then one."""
    feeds, judged = wanted
    free = settings.memory_bytes - feeds * sum(tensors.sizes.get(name, 0) for name in judged)
    count = settings.segments
    while count > 1:
        segments = cut(model, tensors, shapes, count)
        crossing = sum(tensors.sizes.get(name, 0) for name in segments.crossing if name not in judged)
        fitting = feeds if crossing * feeds <= free else int(max(free, 0) // crossing)
        if fitting >= min(LEAST_FEEDS, feeds):
            return segments, fitting
        count //= 2
    return cut(model, tensors, shapes, 1), feeds


def _worst(found: Mapping[str, OutputLoss]) -> float:
    """The loss of a model is the largest of its outputs."""
    return max((loss.mean for loss in found.values()), default=0.0)
