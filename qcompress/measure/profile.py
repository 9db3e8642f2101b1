"""Milliseconds of every kernel of a model, from the runtime's own profile, and of whole runs without the profiler.

Writing a profile takes time of its own, for small kernels as long as they themselves, so the profiler is stopped half-way
and the same session is timed on. Several models take turns. Other work on the machine only ever adds time, and mostly for
moments, so a turn counts with its quiet runs; the clock of the processor changes for seconds, so what counts of a turn is its
share of the round, and of all rounds the median.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from qcompress.errors import DataError, ModelError
from qcompress.graph import NodeFacts, list_nodes
from qcompress.progress import MEASURING_COST, SILENT, Progress, Stage
from qcompress.results import KernelTime
from qcompress.runtime import KernelEvent, SessionSettings, open_session
from qcompress.types import Array, Feed

TURN_SECONDS = 0.02
"""A turn is at least this long, and its first run does not count: that one finds the caches full of another model's data
(a model of 0.6 ms took 1.5 ms). A single run that long counts: refilling caches takes milliseconds at most."""

PROFILED_SHARE = 1 / 3
"""The part of the time that is spent with the profiler on."""

SLOW_SECONDS = 0.25
"""Models whose run takes this long are measured one after the other: open together they would take too much memory, and
what disturbs a machine for milliseconds does not disturb them."""

QUIET = 0.1
"""The quantile of the runs of a turn that counts. On two cores that other work kept busy, six sessions of one model of 0.6 ms
agreed within 1.7 % at this quantile, and within 19 % at the median."""

PROFILED_EVENTS = 8_000
"""After about so many kernel calls of one model the profiler is stopped: each takes a kilobyte of text to be read."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """How long and how to measure; ``threads`` 0 is the runtime's default.

    ``seconds``: for all models together, a third with and the rest without the profiler. ``min_runs``: of each model in each
    part, however long they take. ``warm_up``: runs of each model before, for every shape of feeds.
    """

    threads: int = 0
    seconds: float = 8.0
    min_runs: int = 3
    warm_up: int = 2


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured of one model: its kernels in the order they run, and ``ms`` of a run, over ``turns`` turns."""

    kernels: tuple[KernelTime, ...]
    ms: float
    turns: int


def profile_kernels(model: Path, feeds: Sequence[Feed], settings: ProfileSettings | None = None) -> tuple[KernelTime, ...]:
    """The kernels of a model in the order they run, each with its milliseconds in a run.

    Raises:
        ModelError: the model cannot be loaded or run.
        DataError: there is no feed.
    """
    return profile_models({"": model}, feeds, settings)[""].kernels


def profile_models(
    models: Mapping[str, Path], feeds: Sequence[Feed], settings: ProfileSettings | None = None, progress: Progress = SILENT
) -> dict[str, Profile]:
    """Profile and time several models on the same ``feeds``, used in rotation.

    Raises:
        ModelError: a model cannot be loaded or run.
        DataError: there is no feed.
    """
    settings = settings or ProfileSettings()
    if not feeds:
        raise DataError("there is no input to measure the cost on", "give --data")
    found: dict[str, Profile] = {}
    with TemporaryDirectory(prefix="qcompress-") as folder, progress.stage(MEASURING_COST, unit="turns") as stage:
        files = {name: (path, Path(folder) / str(index)) for index, (name, path) in enumerate(models.items())}
        waiting = list(files)
        while waiting:
            group = {waiting[0]: _Runner(*files[waiting[0]], feeds, settings)}
            if group[waiting[0]].fastest < SLOW_SECONDS:
                group |= {name: _Runner(*files[name], feeds, settings) for name in waiting[1:]}
            waiting = waiting[len(group) :]
            seconds = settings.seconds * len(group) / len(models)
            found |= _measure(group, feeds, replace(settings, seconds=seconds), stage)
    return found


def _measure(
    runners: Mapping[str, _Runner], feeds: Sequence[Feed], settings: ProfileSettings, stage: Stage
) -> dict[str, Profile]:
    """Both parts of the measurement for models that are open together."""
    everyone = list(runners.values())
    _take_turns(everyone, feeds, replace(settings, seconds=settings.seconds * PROFILED_SHARE), stage)
    kernels = [runner.stop_profiling() for runner in everyone]
    _take_turns(everyone, feeds, replace(settings, seconds=settings.seconds * (1.0 - PROFILED_SHARE)), stage)
    shares = _without_drift([runner.turns for runner in everyone])
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, found in enumerate(kernels):
        groups.setdefault(tuple(kernel.kernel for kernel in found), []).append(index)
    for group in groups.values():  # variants of one model that run the same kernels are one model, measured several times
        shares[group] = shares[group].mean(axis=0)
    times = np.median(shares, axis=1) * 1e3
    return {
        name: Profile(kernels[index], float(times[index]), len(runner.turns))
        for index, (name, runner) in enumerate(runners.items())
    }


def _without_drift(turns: Sequence[Sequence[float]]) -> Array:
    """(models, rounds): each model's share of its round, in seconds of a median round."""
    seconds = np.array(turns)
    rounds = np.exp(np.log(seconds).mean(axis=0))
    shares: Array = seconds / rounds * np.median(rounds)
    return shares


def _take_turns(runners: Sequence[_Runner], feeds: Sequence[Feed], settings: ProfileSettings, stage: Stage) -> None:
    """Let the models run in turns until the time is over, at least ``min_runs`` each."""
    start, turn = perf_counter(), 0
    for runner in runners:
        runner.turns.clear()
    waiting = list(runners)
    while waiting:
        for runner in waiting:
            runner.turn(feeds[turn % len(feeds)])
        turn += 1
        over = perf_counter() - start > settings.seconds
        waiting = [runner for runner in waiting if turn < settings.min_runs or not (over or runner.has_enough)]
        stage.advance()


class _Runner:
    """One model's session and the seconds of its turns."""

    def __init__(self, model: Path, files: Path, feeds: Sequence[Feed], settings: ProfileSettings) -> None:
        """Open the model and warm it up; ``files``: where the runtime may write, a name without its end."""
        optimized = files.with_suffix(".onnx")
        opening = SessionSettings(settings.threads, optimized_model=optimized, spinning=False, profile=files)
        self.session = open_session(model, opening)
        self.graph = _main_graph(optimized)
        self.turns: list[float] = []
        """Seconds of a run in each turn."""
        self.profiled: list[int | None] = []
        """The turn of each run since the session was opened, None for those that do not count."""
        self.profiling = True
        shapes = {tuple(sorted((name, np.shape(array)) for name, array in feed.items())): feed for feed in feeds}
        first = [self._time(feed, None) for feed in shapes.values() for _ in range(settings.warm_up)]
        self.fastest = min(first, default=0.0)

    @property
    def has_enough(self) -> bool:
        """Whether the profiler runs and has written enough."""
        return self.profiling and len(self.profiled) * len(self.graph) > PROFILED_EVENTS

    def turn(self, feed: Feed) -> None:
        """Run for a while; the first run of a fast model does not count."""
        start = perf_counter()
        if self.fastest < TURN_SECONDS:
            self._time(feed, None)
        times = [self._time(feed, len(self.turns))]
        while perf_counter() - start < TURN_SECONDS:
            times.append(self._time(feed, len(self.turns)))
        self.turns.append(float(np.quantile(times, QUIET)))

    def stop_profiling(self) -> tuple[KernelTime, ...]:
        """The kernels of the runs that count."""
        self.profiling = False
        turns: dict[int, list[KernelEvent]] = {}
        for event in self.session.stop_profiling():
            turn = self.profiled[event.run]
            if turn is not None:
                turns.setdefault(turn, []).append(event)
        return summarize_events(list(turns.values()), self.graph)

    def _time(self, feed: Feed, turn: int | None) -> float:
        self.profiled.append(turn)
        start = perf_counter()
        self.session.run(feed)
        return perf_counter() - start


def summarize_events(turns: Sequence[Sequence[KernelEvent]], graph: Sequence[NodeFacts]) -> tuple[KernelTime, ...]:
    """Kernel calls as one list in the order of the last run; ``turns``: (turns, calls); ``graph``: the runtime's own.

    The runtime saves its graph in the order in which it runs it, and leaves nodes unnamed there that have a made-up name in
    the profile, so the two are joined by position. Where they do not fit each other, tensors are unknown.
    """
    if not turns:
        return ()
    last = [event for event in turns[-1] if event.run == turns[-1][-1].run]
    order = [event.name for event in last]
    quiet: list[Array] = []
    for turn in turns:
        runs: dict[int, list[KernelEvent]] = {}
        for event in turn:
            runs.setdefault(event.run, []).append(event)
        same = [[event.microseconds for event in run] for run in runs.values() if [event.name for event in run] == order]
        if same:
            quiet.append(np.quantile(np.array(same), QUIET, axis=0))  # (runs, kernels) -> (kernels,)
    times = np.median(quiet, axis=0) / 1e3
    fits = [node.op_type for node in graph] == [event.kernel for event in last]
    tensors = [(node.inputs, node.outputs) for node in graph] if fits else [((), ())] * len(last)
    return tuple(
        KernelTime(event.name, event.kernel, float(ms), *names)
        for event, ms, names in zip(last, times, tensors, strict=True)
    )


def _main_graph(optimized: Path) -> list[NodeFacts]:
    """The graph as the runtime will run it, empty where it could not save one; the files are removed."""
    try:
        return list_nodes(optimized, bodies=False)
    except ModelError:
        return []
    finally:
        for file in optimized.parent.glob(f"{optimized.name}*"):
            file.unlink()
