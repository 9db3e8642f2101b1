"""``qcompress sensitivity``: which layers lose most when they are compressed, and what would help."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompress.cli import options as shared
from qcompress.cli.console import open_progress, wants_colour, width, write_result
from qcompress.cli.guard import Talk
from qcompress.cli.output import wanted
from qcompress.cli.paths import check_report_names, check_targets, existing, input_files, write_text
from qcompress.cli.pruning import SurveyChoice, survey_options
from qcompress.cli.searching import CostChoice, cost_options

if TYPE_CHECKING:
    from qcompress.pipeline import PruneLoss, RankedLoss


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
@survey_options
@shared.data_options
@cost_options
@shared.talk_options
def sensitivity(
    talk: Talk,
    job: SensitivityJob,
    recipe_choice: shared.RecipeChoice,
    survey_choice: SurveyChoice,
    data_choice: shared.DataChoice,
    cost_choice: CostChoice,
) -> None:
    """Rank the layers of MODEL by what is lost when each alone takes a form, most harmful first.

    Loss is of agreement with the original, 0 to 1; compress allows 0.01 for all layers together. Layers that take one
    form together are one group. With --prune: by the share of its numbers, or channels, that each loses.
    """
    check_report_names(job.report)
    inputs = input_files(job.model) + existing(job.data, recipe_choice.recipe)
    check_targets(job.report, inputs)
    cost_choice.check(inputs, job.report, job.data)
    from qcompress.pipeline import RunOptions, measure_pruning, measure_sensitivity
    from qcompress.report import format_of

    options = cost_choice.apply(RunOptions(threads=job.threads, held_out=job.held_out, data=data_choice.load()))
    recipe = survey_choice.apply(recipe_choice.load())
    with open_progress(talk) as progress:
        if survey_choice.survey:
            pruned = measure_pruning(job.model, recipe, job.data, options=options, progress=progress)
            found = _Ranking("What pruning loses", [_prune_facts(item) for item in pruned], *_prune_table(pruned))
        else:
            ranking = measure_sensitivity(job.model, recipe, job.data, options=options, progress=progress)
            found = _Ranking("Sensitivity", [asdict(item) for item in ranking], *_form_table(ranking))
    for path in job.report:
        write_text(path, _laid_out(found, format_of(path), width=120))
    if wanted(job.format, talk):
        write_result(_laid_out(found, job.format, width=width(), colour=wants_colour()))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What was found: ``facts`` for machines, columns and rows for people."""

    title: str
    facts: Sequence[Mapping[str, object]]
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _laid_out(found: _Ranking, form: str, *, width: int, colour: bool = False) -> str:
    if form == "json":
        return json.dumps(found.facts, indent=2, ensure_ascii=False)
    from qcompress.report import render_table

    return render_table(found.title, found.columns, found.rows, form, width=width, color=colour)


def _form_table(ranking: Sequence[RankedLoss]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    columns = ("group", "weights", "form", "loss alone", "ms gained", "what would help")
    rows: list[tuple[str, ...]] = [
        (item.group, _some(item.layers), item.form, f"{item.loss:.2g}", f"{item.gain_ms:.3f}", item.help or "nothing needed")
        for item in ranking
    ]
    return columns, rows


def _prune_facts(item: PruneLoss) -> dict[str, object]:
    losses = [{"share": round(share, 6), "loss": loss} for share, loss in sorted(item.losses.items())]
    return {"name": item.name, "elements": item.elements, "losses": losses}


def _prune_table(pruned: Sequence[PruneLoss]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A column for each share, or one for all where layers have shares of their own, as channels do."""
    shares = sorted({share for item in pruned for share in item.losses})
    if all(len(item.losses) == len(shares) for item in pruned):
        columns = ("weight", "elements", *(f"loss at {share:.0%}" for share in shares))
        return columns, [
            (item.name, f"{item.elements:,}", *(f"{item.losses[share]:.2g}" for share in shares)) for item in pruned
        ]
    told = [", ".join(f"{share:.0%}: {loss:.2g}" for share, loss in sorted(item.losses.items())) for item in pruned]
    return ("channels of", "units", "loss by share"), [
        (item.name, f"{item.elements:,}", losses) for item, losses in zip(pruned, told, strict=True)
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
