"""Options that set limits: on accuracy lost, speed-up, size and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import isnan
from typing import TYPE_CHECKING

import click

from qcompress.cli.options import Command, bundle
from qcompress.cli.parameters import Share
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.results import Gates


@dataclass(frozen=True, slots=True)
class GateChoice:
    """The limits asked for on the command line."""

    max_accuracy_drop: float | None
    min_speedup: float | None
    max_size_ratio: float | None
    min_sqnr: float | None

    def load(self, gates: Gates, metric: str | None = None) -> Gates:
        """``gates`` with those of the command line in their place.

        Raises:
            UsageError: a drop that no model can exceed, most likely points taken for a fraction.
        """
        if metric is None and self.max_accuracy_drop is not None and self.max_accuracy_drop >= 1:
            raise UsageError(
                f"--max-accuracy-drop {self.max_accuracy_drop:g} allows any loss",
                f"write {self.max_accuracy_drop:g}% for {self.max_accuracy_drop:g} points",
            )
        given = {item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) is not None}
        for name, limit in given.items():
            if isnan(limit):
                raise UsageError(f"--{name.replace('_', '-')} is not a number", "write for example 1.2")
        return replace(gates, **given)


def _gate_options(kind: str) -> Callable[[Command], Command]:
    """The options of ``GateChoice``; ``kind`` says in the help what the limits do."""
    return bundle(
        "gate_choice",
        GateChoice,
        click.option(
            "--max-accuracy-drop", type=Share(), metavar="SHARE", help=f"{kind}: accuracy lost at most, 1% or 0.01."
        ),
        click.option(
            "--min-speedup",
            type=click.FloatRange(0),
            metavar="FACTOR",
            help=f"{kind}: float time over compressed time at least.",
        ),
        click.option(
            "--max-size-ratio",
            type=Share(),
            metavar="SHARE",
            help=f"{kind}: compressed over float bytes at most, 35% or 0.35.",
        ),
        click.option("--min-sqnr", type=float, metavar="DB", help="Gate: signal to noise of every output at least."),
    )


gate_options = _gate_options("Gate")

limit_options = _gate_options("Limit of the search, and gate")
