"""Milliseconds: both models run in turns on the same inputs, so that what disturbs one disturbs the other.

A round is four turns, float, compressed, compressed, float: a steady drift cancels, and each model has one turn after its
own and one after the other's (the second finds cold caches). A turn is one run, or several of a fast model, so that it is
long enough to be measured. The speed-up of a round is the quotient of its geometric means; the reported one is the median
over rounds, which go on until its interval is tight or the time is used up.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from qcompress.errors import DataError
from qcompress.measure.intervals import median_interval
from qcompress.progress import MEASURING_LATENCY, SILENT, Progress
from qcompress.results import Interval, LatencyReport
from qcompress.runtime import Session, SessionSettings, open_session, version
from qcompress.types import Feed

TURN_SECONDS = 0.005
"""A turn is at least this long. It counts with its median run, so a run that was interrupted (by 4 ms, on a busy machine)
does not spoil a fast model's turn."""

WARM_UP_SECONDS = 0.2
"""Each model runs at least this long untimed: memory is allocated and the clock of the CPU settles."""

ROUNDS_FOR_INTERVAL = 6
"""Fewer values have no 95 % interval of the median."""

PATIENCE = 4
"""A slow model may take this many times the budget to reach ``ROUNDS_FOR_INTERVAL``; then it ends without interval."""


@dataclass(frozen=True, slots=True)
class LatencySettings:
    """How long and how to measure; ``threads`` 0 is the runtime's default.

    ``precision``: rounds stop when the interval reaches no further than this fraction from the speed-up.
    ``spinning`` off because the idle threads of two live sessions otherwise take the cores from each other: on two busy
    cores one image classifier took 10 ms without and 17 to 25 ms with spinning.
    """

    threads: int = 0
    min_rounds: int = 25
    max_rounds: int = 2000
    budget_seconds: float = 6.0
    precision: float = 0.005
    spinning: bool = False


def measure_latency(
    float_model: Path,
    compressed_model: Path,
    feeds: Sequence[Feed],
    settings: LatencySettings | None = None,
    progress: Progress = SILENT,
) -> LatencyReport:
    """Time one run of each model on ``feeds`` (used in rotation, one per round).

    Raises:
        ModelError: a model cannot be loaded or run.
        DataError: there is no feed.
    """
    settings = settings or LatencySettings()
    if not feeds:
        raise DataError("there is no input to measure the latency on", "give --data")
    opening = SessionSettings(threads=settings.threads, spinning=settings.spinning)
    with progress.stage(MEASURING_LATENCY, unit="rounds") as stage, _no_garbage_collection():
        race = _Race(open_session(float_model, opening), open_session(compressed_model, opening))
        race.warm_up(feeds)
        start = perf_counter()
        while not _is_enough(race.ratios, perf_counter() - start, settings):
            race.round(feeds[len(race.ratios) % len(feeds)])
            stage.advance()
    times = {"float": np.array(race.float_times) * 1e3, "compressed": np.array(race.compressed_times) * 1e3}
    return LatencyReport(
        float_p50_ms=float(np.percentile(times["float"], 50)),
        float_p90_ms=float(np.percentile(times["float"], 90)),
        compressed_p50_ms=float(np.percentile(times["compressed"], 50)),
        compressed_p90_ms=float(np.percentile(times["compressed"], 90)),
        speedup=median_interval(race.ratios),
        rounds=len(race.ratios),
        threads=settings.threads,
        feed_shapes={name: tuple(np.shape(array)) for name, array in feeds[0].items()},
        runs=len(race.float_times),
        cores=os.cpu_count() or 0,
        runtime=f"onnxruntime {version()}",
        spinning=settings.spinning,
    )


@dataclass(slots=True)
class _Race:
    """Two sessions, and the seconds of every timed run."""

    float_session: Session
    compressed_session: Session
    repeats: int = 1
    ratios: list[float] = field(default_factory=list)
    float_times: list[float] = field(default_factory=list)
    compressed_times: list[float] = field(default_factory=list)

    def warm_up(self, feeds: Sequence[Feed]) -> None:
        """Run every shape once and each model for a while, then choose the length of a turn."""
        shapes = {tuple(sorted((name, np.shape(array)) for name, array in feed.items())): feed for feed in feeds}
        fastest = math.inf
        for session in (self.float_session, self.compressed_session):
            for feed in shapes.values():
                _time(session, feed)
            start = perf_counter()
            while True:
                fastest = min(fastest, _time(session, feeds[0]))
                if perf_counter() - start > WARM_UP_SECONDS:
                    break
        self.repeats = math.ceil(TURN_SECONDS / fastest) | 1  # odd, so that the median is one of them

    def round(self, feed: Feed) -> None:
        """Time both models on one feed."""
        first = self._turn(self.float_session, feed, self.float_times)
        second = self._turn(self.compressed_session, feed, self.compressed_times)
        third = self._turn(self.compressed_session, feed, self.compressed_times)
        fourth = self._turn(self.float_session, feed, self.float_times)
        self.ratios.append(math.sqrt(first * fourth / (second * third)))

    def _turn(self, session: Session, feed: Feed, times: list[float]) -> float:
        turn = [_time(session, feed) for _ in range(self.repeats)]
        times.extend(turn)
        return statistics.median(turn)


def _time(session: Session, feed: Feed) -> float:
    start = perf_counter()
    session.run(feed)
    return perf_counter() - start


def _is_enough(ratios: Sequence[float], elapsed: float, settings: LatencySettings) -> bool:
    """Whether the interval is tight, or the time or the number of rounds is used up."""
    rounds = len(ratios)
    if rounds >= settings.max_rounds:
        return True
    if elapsed > settings.budget_seconds:
        return rounds >= ROUNDS_FOR_INTERVAL or (rounds > 0 and elapsed > PATIENCE * settings.budget_seconds)
    if rounds < settings.min_rounds or rounds % settings.min_rounds:  # looking at every round would bias the stop
        return False
    return _half_width(median_interval(ratios)) <= settings.precision


def _half_width(interval: Interval) -> float:
    """How far the interval reaches from its value, as a fraction of it."""
    if interval.low is None or interval.high is None:
        return math.inf
    return max(interval.high - interval.value, interval.value - interval.low) / interval.value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
