"""Options that say what is pruned: how much, in which pattern, by which criterion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click

from qcompress.cli.options import Command, bundle
from qcompress.cli.parameters import LazyChoice, Share
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.recipe import Recipe
    from qcompress.types import Criterion, Spread


@dataclass(frozen=True, slots=True)
class PruneChoice:
    """What is pruned, as far as the command line says; None leaves the recipe's own value."""

    prune: float | None
    prune_threshold: float | None
    prune_pattern: str | None
    prune_criterion: Criterion | None
    prune_spread: Spread | None
    prune_compensate: bool | None

    def changes(self) -> dict[str, Any]:
        """The options that were given, by the field of ``Pruning``; patterns still as text."""
        return _given(self)

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these changes to what is pruned.

        Raises:
            RecipeError: a value that is not possible, or two that exclude each other.
            UsageError: options that say how, and none that says how much.
        """
        changed = _applied(recipe, self.changes())
        if self.changes() and not changed.pruning.is_wanted:
            raise UsageError("it is not said how much is pruned", "add for example --prune 0.5")
        return changed


@dataclass(frozen=True, slots=True)
class SurveyChoice:
    """Whether losses by pruning are asked for, and by which; every share is looked at."""

    survey: bool
    prune_pattern: str | None
    prune_criterion: Criterion | None
    prune_compensate: bool | None

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these changes to what is pruned.

        Raises:
            RecipeError: a value that is not possible.
            UsageError: options of pruning without --prune.
        """
        from qcompress.types import Pattern

        changes = _given(self)
        del changes["survey"]
        if not self.survey:
            if changes:
                raise UsageError("it is said how to prune, but not that pruning is asked about", "add --prune")
            return recipe
        says_how_many = "pattern" in changes and Pattern.parse(changes["pattern"]).is_fixed
        return _applied(recipe, changes if says_how_many else {"amount": 0.5, **changes})  # all shares are measured


def _given(choice: PruneChoice | SurveyChoice) -> dict[str, Any]:
    names = {"prune": "amount"}
    values = {names.get(item.name, item.name.removeprefix("prune_")): getattr(choice, item.name) for item in fields(choice)}
    return {key: value for key, value in values.items() if value is not None}


def _applied(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    from qcompress.recipe import merged
    from qcompress.types import Pattern

    if "pattern" in changes:
        changes["pattern"] = Pattern.parse(changes["pattern"])
    return replace(recipe, pruning=merged(recipe.pruning, changes)) if changes else recipe


def _criteria() -> type[StrEnum]:
    from qcompress.types import Criterion

    return Criterion


def _spreads() -> type[StrEnum]:
    from qcompress.types import Spread

    return Spread


def _how(prefix: str) -> tuple[Callable[[Command], Command], ...]:
    """Options that say which weights are pruned, their names beginning with ``prefix``."""
    return (
        click.option(
            f"--{prefix}pattern",
            "prune_pattern",
            metavar="PATTERN",
            help="unstructured, channel, N:M as in 2:4, or block8: runs of 8 weights.",
        ),
        click.option(
            f"--{prefix}criterion",
            "prune_criterion",
            type=LazyChoice(_criteria),
            help="Which weights count least; the best that the data allows if not given.",
        ),
        click.option(
            f"--{prefix}compensate/--no-{prefix}compensate",
            "prune_compensate",
            default=None,
            help="Solve the weights that stay again, so that outputs change least.",
        ),
    )


def _much(amount: str, prefix: str) -> tuple[Callable[[Command], Command], ...]:
    """Options that say how much is pruned."""
    return (
        click.option(
            f"--{amount}",
            "prune",
            type=Share(),
            metavar="SHARE",
            help="Prune this share of all weights, or of the multiply-adds with pattern channel: 50% or 0.5.",
        ),
        click.option(
            f"--{prefix}threshold", "prune_threshold", type=float, metavar="T", help="Prune weights that score less than T."
        ),
        click.option(
            f"--{prefix}spread",
            "prune_spread",
            type=LazyChoice(_spreads),
            help="How the share is spread over layers; by measured loss if there is data.",
        ),
    )


prune_options = bundle("prune_choice", PruneChoice, *_much("prune", "prune-"), *_how("prune-"))
"""For commands that also quantize."""

own_options = bundle("prune_choice", PruneChoice, *_much("amount", ""), *_how(""))
"""For the command that does nothing but prune."""

survey_options = bundle(
    "survey_choice",
    SurveyChoice,
    click.option("--prune", "survey", is_flag=True, help="Rank by what pruning loses, share by share, instead."),
    *_how("prune-"),
)
"""For the command that measures what pruning would lose."""
