"""Options of the search for forms: how long it may take, for which machine, and where its measurements are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompress.cli.options import bundle
from qcompress.cli.parameters import LazyChoice
from qcompress.cli.paths import check_targets
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.cli.fetching import Copies
    from qcompress.pipeline import RunOptions
    from qcompress.planning import Effort


@dataclass(frozen=True, slots=True)
class CostChoice:
    """Where the model will run, and the file of measurements."""

    target_threads: int | None
    timing_data: str | None
    cost_file: Path | None

    def apply(self, options: RunOptions) -> RunOptions:
        """``options`` with what was chosen."""
        return replace(options, target_threads=self.target_threads, timing_data=self.timing_data, cost_file=self.cost_file)

    def local(self, copies: Copies) -> CostChoice:
        """The same with copies of what lies at URLs."""
        return replace(self, timing_data=copies.data(self.timing_data))

    def check(self, inputs: Iterable[Path], targets: Iterable[Path], data: str | None) -> None:
        """Refuse a file of measurements that is also a model, data or another result, or that nothing is measured for.

        Raises:
            UsageError: it is, or there is no data to measure on.
            OutputError: its folder is missing or cannot be written.
        """
        if self.cost_file is not None and data is None:
            raise UsageError("--cost-file without --data: nothing is measured without data", "give --data")
        if self.cost_file is not None:
            check_targets([self.cost_file], [*inputs, *targets])


@dataclass(frozen=True, slots=True)
class EffortChoice:
    """How long the search may take."""

    effort: Effort

    def apply(self, options: RunOptions) -> RunOptions:
        """``options`` with what was chosen."""
        return replace(options, effort=self.effort)


def _efforts() -> type[StrEnum]:
    from qcompress.planning import Effort

    return Effort


cost_options = bundle(
    "cost_choice",
    CostChoice,
    click.option(
        "--target-threads",
        type=click.IntRange(0, 256),
        metavar="N",
        help="Threads the model will run with: all times are measured with them; 0: all cores.  [default: --threads]",
    ),
    click.option(
        "--timing-data",
        metavar="SOURCE",
        help="Inputs of the sizes for which the model shall be fast (two tokens, one image), if --data has others.",
    ),
    click.option(
        "--cost-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Measurements to choose by; written if there is no such file. The same file gives the same plan.",
    ),
)

effort_options = bundle(
    "effort_choice",
    EffortChoice,
    click.option(
        "--effort",
        type=LazyChoice(_efforts),
        default="normal",
        show_default=True,
        help="How much of the search is measured: about 15 s, 1 min or 10 min of runs, whatever the size of the model.",
    ),
)
