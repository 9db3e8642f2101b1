"""The whole story of a batch: which results stand, running the rest, and the summary."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from qcompress.errors import QcompressError, UsageError
from qcompress.pipeline import versions
from qcompress.remote import is_url
from qcompress.remote import size as remote_size
from qcompress.zoo.discovery import Entry
from qcompress.zoo.engines import ENGINES, Engine, EngineSettings
from qcompress.zoo.inputs import Inputs
from qcompress.zoo.jobs import Event, Job, Limits, Outcome, Status, Summary
from qcompress.zoo.keys import Keys, key_of
from qcompress.zoo.places import beside, canonical, place_in, spellings
from qcompress.zoo.severity import worst_first
from qcompress.zoo.state import State, begin_run, end_run, forget, locked, read_state, standing, write_state

BASE_MEMORY = 250_000_000
MEMORY_FACTOR = 6.0
"""Bytes that a job takes: the interpreter and its libraries, and copies of the model; where no earlier run tells."""


class Watcher(Protocol):
    """Who shows a batch while it runs."""

    def begin(self, decisions: Sequence[Decision]) -> None:
        """It is known what will run."""

    def heard(self, event: Event) -> None:
        """Something happened to a job."""

    def ended(self, outcome: Outcome) -> None:
        """A job has ended."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a job runs and why; ``outcome``: the earlier one that stands."""

    job: Job
    parts: Mapping[str, str]
    reason: str
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How to run a batch."""

    engine: str = "local"
    jobs: int = 0
    memory: int | None = None
    retries: int = 2
    address: str | None = None
    force: bool = False
    fail_fast: bool = False


def make_jobs(entries: Sequence[Entry], out: Path | str, folder: Path, limits: Limits) -> list[Job]:
    """One job a model, its results under ``out`` at the place its name says; commands run in ``folder``.

    Raises:
        UsageError: two results have one place.
    """
    jobs = []
    taken: dict[str, str] = {}
    for entry in entries:
        target = place_in(out, f"{entry.name}.onnx")
        if target.casefold() in taken:
            raise UsageError(
                f"the results of {taken[target.casefold()]} and {entry.model} would be one file", "give one another name"
            )
        taken[target.casefold()] = entry.model
        own = limits if entry.seconds is None else replace(limits, seconds=entry.seconds)
        jobs.append(
            Job(entry.name, entry.model, target, entry.data, entry.eval_data, entry.options, own, folder=str(folder))
        )
    return jobs


def refuse_overwriting(jobs: Sequence[Job], inputs: Inputs) -> None:
    """Make sure that no file which a job may write or remove is read by any of them, however the two are spelled.

    Raises:
        UsageError: one is.
        RemoteError: the package for the protocol of a URL of results is missing.
    """
    written = {canonical(beside(job.target, name)) for job in jobs for name in job.written}
    read: dict[str, str] = {}
    for job in jobs:
        at_urls = [place for place in (job.model, job.data, job.eval_data) if place and is_url(place)]
        for place in (*at_urls, *map(str, inputs.of(job))):
            read.setdefault(place, job.name)
    for place, name in read.items():
        if not written.isdisjoint(spellings(place)):
            raise UsageError(f"results would replace {place}, which {name} reads", "choose another folder for them")


def decide(jobs: Sequence[Job], force: bool = False, run: str = "", inputs: Inputs | None = None) -> list[Decision]:
    """What would run and why; jobs get their keys and what memory they will take. ``run``: the one that goes on."""
    keys, found = Keys(inputs or Inputs()), []
    for plain in jobs:
        parts = keys.parts(plain)
        job = replace(plain, key=key_of(parts), memory=_estimated_memory(plain, keys.inputs))
        outcome, reason = (None, "forced") if force else standing(job, parts, run)
        found.append(Decision(job, parts, reason, outcome))
    return found


def run_batch(
    jobs: Sequence[Job], out: Path | str, settings: BatchSettings, watcher: Watcher, inputs: Inputs | None = None
) -> Summary:
    """Run what has no result that stands, the largest first, and sum up all.

    Raises:
        OutputError: another run writes to ``out``, or it cannot be written.
        QcompressError: the engine cannot run.
    """
    started = time.monotonic()
    with locked(out) as scratch:
        run = begin_run(out, limits_of(jobs))
        decisions = decide(jobs, settings.force, run, inputs)
        watcher.begin(decisions)
        outcomes = {decision.job.name: decision.outcome for decision in decisions if decision.outcome is not None}
        todo = {decision.job.name: decision for decision in decisions if decision.outcome is None}
        engine = ENGINES[settings.engine](
            EngineSettings(settings.jobs, settings.memory, settings.address, settings.retries, str(scratch))
        )
        if not (settings.fail_fast and any(_is_failure(outcome) for outcome in outcomes.values())):
            with closing(_ended(todo, engine, watcher, scratch, run)) as ended:
                for outcome in ended:
                    outcomes[outcome.name] = outcome
                    watcher.ended(outcome)
                    if settings.fail_fast and _is_failure(outcome):
                        break
        for name in todo.keys() - outcomes.keys():
            outcomes[name] = Outcome(name, Status.NOT_RUN, cause="the batch ended at the first failure", attempts=0)
        end_run(out)
        return Summary(worst_first(outcomes.values()), time.monotonic() - started, engine.peak, versions())


def _ended(
    todo: Mapping[str, Decision], engine: Engine, watcher: Watcher, scratch: Path, run: str
) -> Generator[Outcome, None, None]:
    """Run what is to do; each outcome when it is known and its state written down.

    A model whose results cannot be written costs itself alone.
    """
    possible = []
    for decision in todo.values():
        try:
            forget(decision.job)
            possible.append(decision)
        except QcompressError as error:
            yield _unwritable(decision.job, error)
    with closing(engine.run(_in_order(possible), watcher.heard)) as ended:
        for outcome in ended:
            decision = todo[outcome.name]
            parts = {**decision.parts, **Keys().written_by_run(decision.job)}
            try:
                write_state(decision.job, State(parts, outcome, run), scratch)
                yield outcome
            except QcompressError as error:
                yield _unwritable(decision.job, error)


def _unwritable(job: Job, error: QcompressError) -> Outcome:
    return Outcome(job.name, Status.UNUSABLE, job.key, error.message, error.hint)


def _is_failure(outcome: Outcome) -> bool:
    return outcome.status not in (Status.DONE, Status.NOTHING)


def limits_of(jobs: Sequence[Job]) -> str:
    """The limits of all jobs in one text: under others, what failed may not fail."""
    return json.dumps([[job.name, job.limits.seconds, job.limits.memory] for job in jobs])


def _in_order(decisions: Iterable[Decision]) -> list[Job]:
    """The largest first, so that none is left over at the end; those that failed last time after all others."""

    def rank(decision: Decision) -> tuple[object, ...]:
        state = read_state(decision.job)
        return state is not None and not state.outcome.status.settled, -decision.job.memory, decision.job.name

    return [decision.job for decision in sorted(decisions, key=rank)]


def _estimated_memory(job: Job, inputs: Inputs) -> int:
    """Bytes the job will take: as many as last time, else by the size of the model."""
    state = read_state(job)
    if state is not None and state.outcome.peak:
        return state.outcome.peak
    size = 0
    with suppress(OSError, QcompressError):
        if is_url(job.model):
            size = remote_size(job.model) or 0
        else:
            size = sum(file.stat().st_size for file in inputs.model(job.model))
    return BASE_MEMORY + int(MEMORY_FACTOR * size)
