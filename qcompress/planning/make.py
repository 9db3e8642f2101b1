"""Make the plan: every group of layers gets the form that pays, within the loss the user allows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from qcompress.calibrate import observe_shapes
from qcompress.data import Parts
from qcompress.decisions import CompressionPlan, Keep, Quantize
from qcompress.errors import RecipeError
from qcompress.graph import Model, digest, model_files, save_model
from qcompress.graph.outputs import judged_outputs
from qcompress.measure import LatencySettings, measure_latency
from qcompress.measure.machine import machine_facts
from qcompress.measure.profile import ProfileSettings
from qcompress.operators import Layer, find_layers
from qcompress.plan.choose import DYNAMIC, PREFERENCES, STATIC, WEIGHTS, choose_forms
from qcompress.plan.estimate import Estimator
from qcompress.planning.codes import Planned
from qcompress.planning.conclude import Tools, conclude, is_narrow, wants_widths
from qcompress.planning.costs import alternating, measure_costs
from qcompress.planning.groups import Way, find_groups
from qcompress.planning.losses import LossMeter, LossSettings
from qcompress.planning.oracle import ModelOracle
from qcompress.planning.search import LIMITS, Allowance, Effort, Goal, Point, Search, Ways
from qcompress.planning.store import key_of, open_measurements
from qcompress.planning.work import Workplace, assemble, fit
from qcompress.progress import Progress
from qcompress.recipe import Mode, Recipe
from qcompress.rewrite import apply_plan
from qcompress.runtime import SessionSettings, open_session
from qcompress.types import Feed, Form

DEFAULT_BUDGET = 0.01
"""Loss of agreement with the float model that is allowed when nobody says otherwise: cosine 0.99."""

LARGEST_DECODED = 1 << 26
"""Bytes of a table that may be decoded when the model is loaded, for the sake of speed; it then takes these in memory."""

FORM_SHARE = 0.5
"""Of the budget, for forms when widths are chosen after them: narrow codes lose more than integer arithmetic."""

CHOOSING_SAMPLES = 32

FEEDS_TO_TIME = 4

SECONDS_TO_TIME = 2.0

SECONDS_TO_PROFILE = 6.0
"""For all variants together; slow models take longer, three runs of each."""

SLOW_RUN = 0.3
"""Seconds of a run from which borders are estimated by their elements instead of being measured in models of their own."""

OVERHEAD_SECONDS = 0.05
"""What writing and loading the changed part of a model takes beside running it."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """How to plan, apart from what the recipe wants.

    ``threads``: for calibration and losses. ``target_threads``: for everything timed. ``budget``: loss that is allowed.
    ``cost_file``: measurements to use, or to write when the file is not there yet. ``timing``: feeds of the sizes for which
    the model shall be fast; those of the data when there are none.
    """

    threads: int = 0
    target_threads: int = 0
    effort: Effort = Effort.NORMAL
    budget: float = DEFAULT_BUDGET
    cost_file: Path | None = None
    timing: tuple[Feed, ...] = ()


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a group of layers loses alone; ``gain_ms``: time it saves."""

    group: str
    layers: tuple[str, ...]
    way: Way
    loss: float
    gain_ms: float


@dataclass(frozen=True, slots=True)
class Exploration:
    """A search that is set up, and everything needed to turn its answers into plans."""

    oracle: ModelOracle
    search: Search
    effort: Effort
    feeds: Sequence[Feed]
    target_threads: int
    notes: list[str] = field(default_factory=list)


def make_plan(model: Model, recipe: Recipe, parts: Parts | None, settings: PlanSettings, progress: Progress) -> Planned:
    """Plan the compression of a prepared model; without data only forms that need none are used.

    Forms are chosen first, with codes as wide as the recipe says, then widths where the recipe leaves them open.

    Raises:
        CalibrationError: an activation is NaN or infinite.
        ModelError: the model does not run on the data.
        RecipeError: include, exclude or outputs name something the model does not have.
    """
    work = open_workplace(model, recipe, parts, settings, progress)
    nothing = all(layer.reason for layer in work.layers)
    if recipe.mode is not Mode.AUTO or parts is None or parts.choose is None or nothing:
        return _without_search(work, settings)
    open_widths = wants_widths(work)
    exploration = explore(work, replace(settings, budget=settings.budget * FORM_SHARE) if open_widths else settings)
    with saved(exploration):
        plan = settle(exploration, exploration.search.run())
        oracle = exploration.oracle
        tools = Tools(oracle.meter, oracle.measurements, most_runs(work, settings, oracle.meter))
        return conclude(work, replace(plan, budget=settings.budget), oracle.fitted.statistics, tools)


def explore(work: Workplace, settings: PlanSettings) -> Exploration:
    """Fit all numbers, measure the costs and set up the search; needs held-out samples.

    Raises:
        RecipeError: there are too few samples to hold any out.
    """
    parts, recipe, progress = work.parts, work.recipe, work.progress
    if parts is None or parts.choose is None:
        raise RecipeError("there are too few samples to choose forms on", "give --data with at least 8 samples")
    choosing = choosing_feeds(work)
    timing = list(settings.timing) or [batch.feed for batch in islice(parts.fit.batches(), FEEDS_TO_TIME)]
    about = {
        "model": digest(work.model.path),
        "data": _digest([*timing, *choosing]),
        "threads": str(settings.target_threads),
    }
    facts = machine_facts(settings.target_threads)
    measurements = open_measurements(about, str(facts), settings.cost_file)
    choices = {
        Way.STORED: choose_forms(work.layers, WEIGHTS, recipe, work.speed_shapes),
        Way.STATIC: choose_forms(work.layers, STATIC, recipe, work.speed_shapes),
        Way.DYNAMIC: choose_forms(work.layers, DYNAMIC, recipe, work.speed_shapes),
    }
    groups = find_groups(work.layers, choices)
    kept: dict[str, Form | Keep] = {layer.name: Keep("") for layer in work.layers}
    singles = [kept | dict(forms) for group in groups for way, forms in group.forms.items() if way is Way.STATIC]
    turns = alternating(work.layers, choices[Way.STATIC], choices[Way.STORED])
    fitted = fit(work, [*choices.values(), *singles, *turns])
    if measurements.costs is None:
        measured = {way.value: chosen for way, chosen in choices.items() if any(way in group.ways for group in groups)}
        if seconds_per_run(work.model.path, timing[0], settings.target_threads) < SLOW_RUN:
            measured |= {"first turn": turns[0], "second turn": turns[1]}
        variants = {name: assemble(work, chosen, fitted) for name, chosen in measured.items()}
        profiling = ProfileSettings(threads=settings.target_threads, seconds=SECONDS_TO_PROFILE)
        measurements.costs = measure_costs(work.model, work.layers, variants, timing, profiling, progress)
        measurements.save()
    estimator = Estimator(work.model, work.layers, measurements.costs, work.speed_shapes)
    meter = loss_meter(work, choosing)
    in_groups = {layer.name for group in groups for layer in group.layers}
    fixed = {name: form for name, form in choices[Way.STORED].items() if name not in in_groups}
    oracle = ModelOracle(work, groups, fixed, fitted, estimator, meter, measurements)
    seconds = OVERHEAD_SECONDS + 0.6 * len(choosing) * measurements.costs.source_ms / 1000.0
    limits = LIMITS[settings.effort]
    allowance = Allowance(max(4, int(limits.seconds / seconds)), limits.joints)
    search = Search(oracle, _goal(work, settings, oracle, len(choosing)), allowance, progress.note)
    return Exploration(oracle, search, settings.effort, timing, settings.target_threads)


def settle(exploration: Exploration, best: Point) -> CompressionPlan:
    """The plan of the best candidate that really is no slower than float, measured with both models taking turns.

    Candidates within the budget are tried from the fastest; stored weights, which nothing slows, come last. Where the least
    loss at a speed is asked for, they are tried from the slowest that should have it.
    """
    oracle, search = exploration.oracle, exploration.search
    within = [point for point in search.findings.points.values() if point.loss <= max(best.loss, search.goal.budget)]
    least = oracle.work.recipe.gates.min_speedup if search.goal.least_loss else None
    if least is None:
        others = sorted((point for point in within if point.cost > best.cost), key=lambda point: (point.cost, point.ways))
    else:
        others = sorted((point for point in within if point.cost < best.cost), key=lambda point: (-point.cost, point.ways))
    notes = [*exploration.notes, *oracle.repairs]
    taken = best
    for point in (best, *others):
        taken = point
        speedup = _speedup(exploration, point.ways)
        if speedup >= (least or 1.0):
            break
        if point.ways == search.stored and least is None:
            return _decoded_at_load(plan_of(exploration, point, notes), oracle.work.layers, speedup)
        notes.append(f"{described(point.ways)}: not taken, {speedup:.2f} times as fast as float")
        oracle.work.progress.note(notes[-1])
    return plan_of(exploration, taken, notes)


def _decoded_at_load(plan: CompressionPlan, layers: Sequence[Layer], speedup: float) -> CompressionPlan:
    """The plan with tables decoded when the model is loaded, unless they are large: looking up codes takes its time."""
    tables = {
        layer.name: replace(decision, form=Form.FOLDED)
        for layer in layers
        if isinstance(decision := plan.weights.get(layer.name), Quantize)
        and decision.form is Form.GATHERED
        and Form.FOLDED in layer.forms
        and layer.bytes <= LARGEST_DECODED
    }
    if not tables:
        return plan
    told = f"tables decoded when the model is loaded: {len(tables)}; with their codes looked up it was {speedup:.3f} times as fast"
    return replace(plan, weights={**plan.weights, **tables}, notes=(*plan.notes, told))


def plan_of(exploration: Exploration, point: Point, notes: Sequence[str] = ()) -> CompressionPlan:
    """The plan of a candidate, with what was found out about it."""
    oracle = exploration.oracle
    facts = oracle.measurements.costs.machine if oracle.measurements.costs is not None else None
    return replace(
        oracle.plan(point.ways),
        notes=(*notes, *_reasons(exploration, point)),
        loss=point.loss,
        budget=exploration.search.goal.budget,
        machine={} if facts is None else asdict(facts),
    )


@contextmanager
def saved(exploration: Exploration) -> Iterator[None]:
    """Keep what was measured, also when the work is interrupted."""
    try:
        yield
    finally:
        exploration.oracle.measurements.save()


def sensitivities(exploration: Exploration) -> list[Sensitivity]:
    """What every group loses alone in each of its integer forms, most harmful first."""
    oracle, found = exploration.oracle, []
    stored = exploration.search.stored
    base = oracle.cost(stored)
    ways_of = [(index, way) for index, group in enumerate(oracle.groups) for way in group.ways if way is not Way.KEPT]
    with oracle.work.progress.stage("Measuring what each layer loses", len(ways_of), "forms") as stage:
        for index, way in ways_of:
            group = oracle.groups[index]
            loss = oracle.alone({index: way})
            gain = base - oracle.cost((*stored[:index], way, *stored[index + 1 :]))
            found.append(Sensitivity(group.name, tuple(layer.name for layer in group.layers), way, loss, gain))
            stage.advance()
    return sorted(found, key=lambda item: (-item.loss, item.group, item.way))


def _without_search(work: Workplace, settings: PlanSettings) -> Planned:
    """The plan of a mode that leaves no choice of forms, or of too little data to choose on."""
    mode, notes = work.recipe.mode, tuple[str, ...]()
    if work.parts is None and mode is not Mode.DYNAMIC:
        mode = Mode.WEIGHTS
    if mode is Mode.AUTO:
        mode = Mode.WEIGHTS
        notes = ("too few samples to check integer arithmetic on: weights are stored, arithmetic stays in float",)
    chosen = choose_forms(work.layers, PREFERENCES[mode][0], work.recipe, work.speed_shapes)
    fitted = fit(work, [chosen])
    plan = replace(assemble(work, chosen, fitted), notes=notes)
    parts = work.parts
    if parts is None or parts.choose is None or not (wants_widths(work) or is_narrow(work.recipe)):
        return conclude(work, plan, fitted.statistics)
    choosing = choosing_feeds(work)
    about = {"model": digest(work.model.path), "data": _digest(choosing)}
    measurements = open_measurements(about, "", None)
    meter = loss_meter(work, choosing)
    tools = Tools(meter, measurements, most_runs(work, settings, meter))
    try:
        return conclude(work, replace(plan, budget=settings.budget), fitted.statistics, tools)
    finally:
        measurements.save()


def choosing_feeds(work: Workplace) -> list[Feed]:
    """Held-out feeds that candidates are compared on; none of too few samples."""
    if work.parts is None or work.parts.choose is None:
        return []
    return [batch.feed for batch in work.parts.choose.limit(CHOOSING_SAMPLES).batches()]


def loss_meter(work: Workplace, choosing: Sequence[Feed]) -> LossMeter:
    """How losses are measured on these feeds."""
    judged = judged_outputs(work.model, work.recipe.outputs)
    return LossMeter(work.model, choosing, judged, LossSettings(work.threads, shapes=work.shapes), work.progress)


def most_runs(work: Workplace, settings: PlanSettings, meter: LossMeter) -> int:
    """How many losses of single layers there is time for."""
    groups = [[layer.name] for layer in work.layers if not layer.reason]
    seconds = OVERHEAD_SECONDS + meter.estimate(groups) / max(len(groups), 1)
    return max(4, int(LIMITS[settings.effort].seconds / seconds))


def open_workplace(
    model: Model, recipe: Recipe, parts: Parts | None, settings: PlanSettings, progress: Progress
) -> Workplace:
    """What planning works on, checked against the model.

    Raises:
        RecipeError: the recipe names an output the model does not have.
    """
    _check_outputs(model, recipe)
    shapes = {} if parts is None else observe_shapes(model, next(iter(parts.fit.batches())).feed)
    timed = observe_shapes(model, settings.timing[0]) if settings.timing else {}
    return Workplace(model, find_layers(model), recipe, parts, shapes, settings.threads, progress, timed)


def _goal(work: Workplace, settings: PlanSettings, oracle: ModelOracle, samples: int) -> Goal:
    """What the recipe's limits mean for the search."""
    gates, costs = work.recipe.gates, oracle.measurements.costs
    most_ms = None
    if gates.min_speedup is not None and costs is not None:
        most_ms = costs.source_ms / max(gates.min_speedup, 1e-9)
    most_bytes = None
    if gates.max_size_ratio is not None:
        whole = sum(file.stat().st_size for file in model_files(work.model.path))
        weights = sum(layer.bytes for group in oracle.groups for layer in group.layers)
        most_bytes = gates.max_size_ratio * whole - (whole - weights)
    return Goal(settings.budget, work.recipe.objective, most_ms, most_bytes, samples)


def _speedup(exploration: Exploration, ways: Ways) -> float:
    """How many times as fast as the original a candidate is, measured; the favourable end of the interval."""
    oracle = exploration.oracle
    plan = oracle.plan(ways)

    def measure() -> float:
        candidate = oracle.work.model.clone()
        apply_plan(plan, candidate)
        with TemporaryDirectory(prefix="qcompress-") as folder:
            path = Path(folder) / "candidate.onnx"
            save_model(candidate, path)
            settings = LatencySettings(threads=exploration.target_threads, budget_seconds=SECONDS_TO_TIME)
            found = measure_latency(oracle.work.model.path, path, exploration.feeds, settings, oracle.work.progress)
        return found.speedup.high if found.speedup.high is not None else found.speedup.value

    return oracle.measurements.speedup(key_of(plan.to_json()), measure)


def described(ways: Ways) -> str:
    """How many groups go which way, in words."""
    counts = {way: ways.count(way) for way in dict.fromkeys(ways)}
    return ", ".join(f"{count} {way.value}" for way, count in counts.items())


def _reasons(exploration: Exploration, taken: Point) -> list[str]:
    """What stands between the result and the fastest forms."""
    search, oracle = exploration.search, exploration.oracle
    notes = [f"groups of layers: {described(taken.ways)}; loss {taken.loss:.2g} of {search.goal.budget:g} allowed"]
    harmful = sorted(
        ((loss, group, way) for (group, way), loss in search.findings.losses.items() if taken.ways[group] != way),
        key=lambda item: (-item[0], item[1]),
    )
    notes += [
        f"{oracle.groups[group].name} is not {way.value}: it alone would lose {loss:.2g}"
        for loss, group, way in harmful[:5]
        if way is not Way.STORED and loss * len(taken.ways) >= search.goal.budget
    ]
    if all(point.loss > search.goal.budget for point in search.findings.points.values()):
        notes.append(f"no candidate lost less than {taken.loss:.2g} of agreement, {search.goal.budget:g} were allowed")
    return notes


def seconds_per_run(model: Path, feed: Feed, threads: int) -> float:
    """Seconds of the second run, when memory is allocated."""
    session = open_session(model, SessionSettings(threads=threads))
    session.run(feed)
    started = perf_counter()
    session.run(feed)
    return perf_counter() - started


def _digest(feeds: Iterable[Feed]) -> str:
    """A short name for the samples that things are measured on."""
    total = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            total.update(f"{name} {feed[name].dtype} {feed[name].shape}".encode())
            total.update(feed[name].tobytes())
    return total.hexdigest()[:24]


def _check_outputs(model: Model, recipe: Recipe) -> None:
    names = [output.name for output in model.outputs]
    for name in recipe.outputs:
        if name not in names:
            near = get_close_matches(name, names, 1, 0.0)
            raise RecipeError(f"the model has no output {name!r}", f"did you mean {near[0]!r}?" if near else "it has none")
