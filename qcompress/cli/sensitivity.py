"""``qcompress sensitivity``: which layers lose most when they are compressed, and what would help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompress.cli import options as shared
from qcompress.cli.console import open_progress, wants_colour, width, write_result
from qcompress.cli.guard import Talk
from qcompress.cli.output import wanted
from qcompress.cli.paths import check_report_names, check_targets, existing, input_files, write_text
from qcompress.cli.searching import CostChoice, cost_options

if TYPE_CHECKING:
    from qcompress.planning import RankedLoss


@dataclass(frozen=True, slots=True)
class SensitivityJob:
    """What is measured, and where the ranking goes."""

    model: Path
    data: str
    report: tuple[Path, ...]
    format: str
    threads: int
    held_out: float


job_options = shared.bundle(
    "job",
    SensitivityJob,
    click.argument("model", type=click.Path(path_type=Path)),
    click.option("--data", required=True, metavar="SOURCE", help="Calibration data, as for compress."),
    click.option(
        "-o",
        "--report",
        type=click.Path(dir_okay=False, path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Also write the ranking here; .json, .md or .txt decides the form. Repeatable.",
    ),
    shared.format_option,
    shared.threads_option,
    shared.held_out_option,
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@shared.recipe_options
@shared.data_options
@cost_options
@shared.talk_options
def sensitivity(
    talk: Talk,
    job: SensitivityJob,
    recipe_choice: shared.RecipeChoice,
    data_choice: shared.DataChoice,
    cost_choice: CostChoice,
) -> None:
    """Rank the layers of MODEL by what is lost when each alone takes a form, most harmful first.

    Loss is of agreement with the original, 0 to 1; compress allows 0.01 for all layers together. Layers that take one
    form together are one group.
    """
    check_report_names(job.report)
    inputs = input_files(job.model) + existing(job.data, recipe_choice.recipe)
    check_targets(job.report, inputs)
    cost_choice.check(inputs, job.report, job.data)
    from qcompress.pipeline import RunOptions, measure_sensitivity
    from qcompress.report import format_of

    options = cost_choice.apply(RunOptions(threads=job.threads, held_out=job.held_out, data=data_choice.load()))
    with open_progress(talk) as progress:
        ranking = measure_sensitivity(job.model, recipe_choice.load(), job.data, options=options, progress=progress)
    for path in job.report:
        write_text(path, _laid_out(ranking, format_of(path), width=120))
    if wanted(job.format, talk):
        write_result(_laid_out(ranking, job.format, width=width(), colour=wants_colour()))


def _laid_out(ranking: Sequence[RankedLoss], form: str, *, width: int, colour: bool = False) -> str:
    if form == "json":
        return json.dumps([asdict(item) for item in ranking], indent=2, ensure_ascii=False)
    from qcompress.report import render_table

    columns = ("group", "weights", "form", "loss alone", "ms gained", "what would help")
    rows = [
        (item.group, _some(item.layers), item.form, f"{item.loss:.2g}", f"{item.gain_ms:.3f}", item.help or "nothing needed")
        for item in ranking
    ]
    return render_table("Sensitivity", columns, rows, form, width=width, color=colour)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
