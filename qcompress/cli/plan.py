"""``qcompress plan``: decide what would be done to every layer, and write it down to be replayed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompress.cli import options as shared
from qcompress.cli.console import open_progress, wants_colour, width, write_result
from qcompress.cli.guard import Talk
from qcompress.cli.limits import GateChoice, limit_options
from qcompress.cli.output import wanted
from qcompress.cli.paths import check_targets, existing, input_files, write_text
from qcompress.cli.pruning import PruneChoice, prune_options
from qcompress.cli.searching import CostChoice, EffortChoice, cost_options, effort_options
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.decisions import CompressionPlan
    from qcompress.planning import FrontierPoint


@dataclass(frozen=True, slots=True)
class PlanJob:
    """What the plan is made from, and where it goes."""

    model: Path
    output: str
    data: str | None
    frontier: bool
    format: str
    threads: int
    held_out: float
    metric: str | None


job_options = shared.bundle(
    "job",
    PlanJob,
    click.argument("model", type=click.Path(path_type=Path)),
    click.option("-o", "--output", default="-", show_default=True, metavar="FILE", help="The plan, as JSON; - for stdout."),
    click.option("--data", metavar="SOURCE", help="Calibration data, as for compress."),
    click.option(
        "--frontier",
        is_flag=True,
        help="List the candidates that no other beats in size, time and loss; compress --pick N writes one.",
    ),
    click.option(
        "--format",
        type=click.Choice(["table", "json", "markdown"]),
        default="table",
        show_default=True,
        help="Form of the frontier on stdout; with -o a file it is JSON. A plan is always JSON.",
    ),
    shared.threads_option,
    shared.held_out_option,
    click.option("--metric", metavar="MODULE:FUNCTION", help="As for compress: --max-accuracy-drop is then a drop of this."),
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@shared.recipe_options
@prune_options
@shared.data_options
@effort_options
@cost_options
@limit_options
@shared.talk_options
def plan(
    talk: Talk,
    job: PlanJob,
    recipe_choice: shared.RecipeChoice,
    prune_choice: PruneChoice,
    data_choice: shared.DataChoice,
    effort_choice: EffortChoice,
    cost_choice: CostChoice,
    gate_choice: GateChoice,
) -> None:
    """Decide what compress would do to MODEL, without doing it.

    The plan is JSON; compress --plan FILE replays it byte for byte. Limits steer the choice, as they do in compress.
    """
    to_stdout = job.output == "-"
    if job.frontier and job.data is None:
        raise UsageError("--frontier needs --data", "losses are measured on a part of it")
    inputs = input_files(job.model) + existing(job.data, recipe_choice.recipe)
    targets = [] if to_stdout else [Path(job.output)]
    check_targets(targets, inputs)
    cost_choice.check(inputs, targets, job.data)
    from qcompress import pipeline

    recipe = recipe_choice.load(prune_choice)
    recipe = replace(recipe, gates=gate_choice.load(recipe.gates, job.metric))
    options = pipeline.RunOptions(threads=job.threads, held_out=job.held_out, data=data_choice.load(), metric=job.metric)
    options = effort_choice.apply(cost_choice.apply(options))
    with open_progress(talk) as progress:
        if job.frontier:
            points = pipeline.plan_frontier(job.model, recipe, job.data, options=options, progress=progress)
        else:
            made = pipeline.plan_compression(job.model, recipe, job.data, options=options, progress=progress)
    if not job.frontier and loss_warning(made):
        click.echo(f"warning: {loss_warning(made)}", err=True)
    if job.frontier:
        _show_frontier(points, job, talk)
    elif to_stdout:
        write_result(made.to_json())
    else:
        write_text(Path(job.output), made.to_json())


def loss_warning(made: CompressionPlan) -> str:
    """What must be said about a plan that loses more than it was allowed to; empty when it does not."""
    if made.loss is None or made.budget is None or made.loss <= made.budget:
        return ""
    return f"the plan loses {made.loss:.2g} of agreement, {made.budget:g} were allowed; compress will end with code 1"


def _show_frontier(points: Sequence[FrontierPoint], job: PlanJob, talk: Talk) -> None:
    facts = [
        {
            "point": number,
            "size_bytes": point.size_bytes,
            "milliseconds": point.milliseconds,
            "speedup": point.speedup,
            "loss": point.loss,
            "within_budget": point.plan.loss is not None and point.plan.loss <= (point.plan.budget or 0.0),
            "groups": point.ways,
        }
        for number, point in enumerate(points, 1)
    ]
    text = json.dumps(facts, indent=2)
    if job.output != "-":
        write_text(Path(job.output), text)
    elif job.format == "json":
        write_result(text)
    elif wanted(job.format, talk):
        from qcompress.report import render_table

        columns = ("point", "kB, estimated", "ms, estimated", "speed-up", "loss", "within budget", "groups of layers")
        rows = [
            (
                str(fact["point"]),
                f"{point.size_bytes / 1000:,.1f}",
                f"{point.milliseconds:.3f}",
                f"{point.speedup:.2f}",
                f"{point.loss:.2g}",
                fact["within_budget"],
                point.ways,
            )
            for fact, point in zip(facts, points, strict=True)
        ]
        write_result(render_table("Frontier", columns, rows, job.format, width=width(), color=wants_colour()))
