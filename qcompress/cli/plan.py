"""``qcompress plan``: decide what would be done to every layer, and write it down to be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from qcompress.cli import options as shared
from qcompress.cli.console import open_progress, write_result
from qcompress.cli.guard import Talk
from qcompress.cli.paths import check_targets, existing, input_files, write_text


@dataclass(frozen=True, slots=True)
class PlanJob:
    """What the plan is made from, and where it goes."""

    model: Path
    output: str
    data: str | None
    threads: int


job_options = shared.bundle(
    "job",
    PlanJob,
    click.argument("model", type=click.Path(path_type=Path)),
    click.option("-o", "--output", default="-", show_default=True, metavar="FILE", help="The plan, as JSON; - for stdout."),
    click.option("--data", metavar="SOURCE", help="Calibration data, as for compress."),
    shared.threads_option,
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@shared.recipe_options
@shared.data_options
@shared.talk_options
def plan(talk: Talk, job: PlanJob, recipe_choice: shared.RecipeChoice, data_choice: shared.DataChoice) -> None:
    """Decide what compress would do to MODEL, without doing it.

    The plan is JSON; compress --plan FILE replays it byte for byte.
    """
    to_stdout = job.output == "-"
    inputs = input_files(job.model) + existing(job.data, recipe_choice.recipe)
    check_targets([] if to_stdout else [Path(job.output)], inputs)
    from qcompress.pipeline import RunOptions, plan_compression

    options = RunOptions(threads=job.threads, data=data_choice.load())
    with open_progress(talk) as progress:
        made = plan_compression(job.model, recipe_choice.load(), job.data, options=options, progress=progress)
    if to_stdout:
        write_result(made.to_json())
    else:
        write_text(Path(job.output), made.to_json())
