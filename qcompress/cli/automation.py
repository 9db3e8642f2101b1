"""Options for Makefiles and CI: dependency file, JUnit, and last time's report to hold the result against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

from qcompress.cli.github import annotate, summarize
from qcompress.cli.options import bundle
from qcompress.cli.parameters import Share
from qcompress.cli.paths import write_text
from qcompress.errors import OutputError, QcompressError, UsageError

if TYPE_CHECKING:
    from qcompress.measure import Baseline
    from qcompress.pipeline import RunOptions
    from qcompress.results import Report
    from qcompress.zoo.jobs import Summary

ANNOTATIONS = 9
"""GitHub shows ten a step; the tenth says how many more there are."""


@dataclass(frozen=True, slots=True)
class BaselineChoice:
    """Last time's report, and how much worse the result may be."""

    baseline: Path | None
    size_tolerance: float
    speed_tolerance: float
    accuracy_tolerance: float

    def load(self) -> Baseline | None:
        """The baseline, if one was asked for.

        Raises:
            UsageError: not a report.
        """
        if self.baseline is None:
            return None
        from qcompress.measure import Baseline
        from qcompress.report import from_json

        try:
            text = self.baseline.read_text(encoding="utf-8")
        except OSError as error:
            hint = "write one with --report FILE.json"
            raise UsageError(f"{self.baseline}: cannot be read: {error.strerror}", hint) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.baseline} is not a report", "write one with --report FILE.json") from error
        try:
            report = from_json(text)
        except UsageError as error:
            raise UsageError(f"{self.baseline}: {error.message}", error.hint) from error
        return Baseline(report, self.size_tolerance, self.speed_tolerance, self.accuracy_tolerance)

    def apply(self, options: RunOptions) -> RunOptions:
        """``options`` with the baseline.

        Raises:
            UsageError: not a report.
        """
        return replace(options, baseline=self.load())


baseline_options = bundle(
    "baseline_choice",
    BaselineChoice,
    click.option(
        "--baseline",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="REPORT.json",
        help="Gate: not worse than this report of an earlier run, in size, speed-up and accuracy.",
    ),
    click.option(
        "--size-tolerance",
        type=Share(),
        default="1%",
        show_default=True,
        metavar="SHARE",
        help="With --baseline: the file may grow by so much.",
    ),
    click.option(
        "--speed-tolerance",
        type=Share(),
        default="10%",
        show_default=True,
        metavar="SHARE",
        help="With --baseline: so much of the speed-up may be lost.",
    ),
    click.option(
        "--accuracy-tolerance",
        type=Share(),
        default="0.5%",
        show_default=True,
        metavar="SHARE",
        help="With --baseline: so many points of accuracy may be lost.",
    ),
)


@dataclass(frozen=True, slots=True)
class AutomationChoice:
    """Files for the programs that call this one."""

    junit: Path | None
    depfile: Path | None

    @property
    def files(self) -> list[Path]:
        """Those that were asked for."""
        return [path for path in (self.junit, self.depfile) if path is not None]

    @contextmanager
    def watch(self, name: str) -> Iterator[float]:
        """Write the JUnit file when the work on the model ``name`` fails, too; gives the time it began."""
        start = perf_counter()
        try:
            yield start
        except Exception as error:
            if self.junit is not None:
                self._write_error(name, error, perf_counter() - start)
            raise

    def tell(self, report: Report, start: float) -> None:
        """Say how it ended: in the JUnit file, and to GitHub when it runs this.

        Raises:
            OutputError: the JUnit file cannot be written.
        """
        from qcompress.report import render
        from qcompress.report.formats.junit import junit_document, junit_suite

        if self.junit is not None:
            write_text(self.junit, junit_document([junit_suite(report, seconds=perf_counter() - start)]))
        summarize(f"# {report.source}\n\n{render(report, 'markdown')}")
        for gate in report.gates:
            if not gate.passed:
                annotate(f"qcompress: {report.source}", f"gate failed: {gate.message}")

    def tell_batch(self, summary: Summary) -> None:
        """Say how a batch ended, as ``tell`` does for a model.

        Raises:
            OutputError: the JUnit file cannot be written.
        """
        from qcompress.report import RenderOptions
        from qcompress.zoo.formats import SUMMARY_FORMATS
        from qcompress.zoo.jobs import Status

        if self.junit is not None:
            write_text(self.junit, SUMMARY_FORMATS["junit"](summary, RenderOptions()))
        summarize(SUMMARY_FORMATS["markdown"](summary, RenderOptions()))
        bad = [item for item in summary.outcomes if item.status not in (Status.DONE, Status.NOTHING)]
        for outcome in bad[:ANNOTATIONS]:
            annotate(f"qcompress: {outcome.name}", f"{outcome.status}: {outcome.cause}")
        if len(bad) > ANNOTATIONS:
            annotate("qcompress", f"{len(bad) - ANNOTATIONS} more models failed; the summary of the job lists them")

    def _write_error(self, name: str, error: Exception, seconds: float) -> None:
        from qcompress.report.formats.junit import End, junit_document, junit_result

        assert self.junit is not None
        words = str(error) if isinstance(error, QcompressError) else f"{type(error).__name__}: {error}"
        with suppress(OutputError, OSError):  # of the two failures the first is the one to tell
            before = self.junit.read_bytes() if self.junit.exists() else b""
            if before and not before.startswith(b"<?xml"):
                return  # it may be an input: the failure came before that was checked
            suite = junit_result(name, End.ERROR, words, type(error).__name__, seconds)
            write_text(self.junit, junit_document([suite]))


automation_options = bundle(
    "automation_choice",
    AutomationChoice,
    click.option(
        "--junit",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Also write the result as JUnit XML, one case a gate, for CI servers.",
    ),
    click.option(
        "--depfile",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Also write a rule for Make that names every file read.",
    ),
)
