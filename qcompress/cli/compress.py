"""``qcompress compress``: write a smaller model and say what it cost."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompress.cli import options as shared
from qcompress.cli.console import open_progress, write_bytes
from qcompress.cli.guard import Talk
from qcompress.cli.output import deliver
from qcompress.cli.paths import check_report_names, check_targets, existing, input_files
from qcompress.errors import ExitCode, OutputError, RecipeError, UsageError

if TYPE_CHECKING:
    from qcompress.decisions import CompressionPlan
    from qcompress.pipeline import RunOptions
    from qcompress.progress import Progress
    from qcompress.recipe import Recipe
    from qcompress.results import Report

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Job:
    """What goes in and what comes out."""

    model: Path
    output: str
    data: str | None
    eval_data: str | None
    plan: Path | None
    discard_on_fail: bool


job_options = shared.bundle(
    "job",
    Job,
    click.argument("model", type=click.Path(path_type=Path)),
    click.option("-o", "--output", required=True, metavar="OUT", help="The compressed model; - for stdout."),
    click.option("--data", metavar="SOURCE", help="Calibration data: .npz, .npy, folder, module:function or random."),
    click.option("--eval-data", metavar="SOURCE", help="Labelled or unlabelled data to measure on."),
    click.option(
        "--plan", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Replay a plan of qcompress plan."
    ),
    click.option("--discard-on-fail", is_flag=True, help="Write no model when a gate fails."),
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@shared.recipe_options
@shared.data_options
@shared.run_options
@shared.gate_options
@shared.report_options
@shared.talk_options
def compress(
    talk: Talk,
    job: Job,
    recipe_choice: shared.RecipeChoice,
    data_choice: shared.DataChoice,
    run_choice: shared.RunChoice,
    gate_choice: shared.GateChoice,
    report_choice: shared.ReportChoice,
) -> ExitCode:
    """Write a smaller MODEL to OUT, and report its size, speed and accuracy beside the original's.

    Without data, only forms that need none are used, and accuracy is not measured. Without --eval-data, a part of
    --data is held out and measured on.
    """
    _check(job, recipe_choice, report_choice)
    recipe = recipe_choice.load()
    recipe = replace(recipe, gates=gate_choice.load(recipe.gates, run_choice.metric))
    options = run_choice.load(data_choice.load(), job.discard_on_fail)
    if job.output != STDOUT:
        with open_progress(talk) as progress:
            report = _run(job, Path(job.output), recipe, options, progress)
        return deliver(report, report_choice, talk)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="qcompress-") as folder:
        target = Path(folder, "model.onnx")
        with open_progress(talk) as progress:
            report = _run(job, target, recipe, options, progress)
        _model_to_stdout(target)
    return deliver(replace(report, target=STDOUT), report_choice, talk, sys.stderr)


def _check(job: Job, recipe_choice: shared.RecipeChoice, report_choice: shared.ReportChoice) -> None:
    """Refuse what cannot end well before the long work starts."""
    if job.plan is not None and recipe_choice.changes():
        raise UsageError("--plan already says what is done to each layer", "leave the options that change the recipe away")
    if job.output == STDOUT and sys.stdout.isatty():
        raise UsageError("a model is not written to a terminal", "redirect stdout, or give -o a file name")
    if job.output == "":
        raise UsageError("-o has no file name", "give the name of the compressed model, or - for stdout")
    check_report_names(report_choice.report)
    inputs = input_files(job.model) + existing(job.data, job.eval_data, job.plan, recipe_choice.recipe)
    check_targets([*([] if job.output == STDOUT else [Path(job.output)]), *report_choice.report], inputs)


def _run(job: Job, target: Path, recipe: Recipe, options: RunOptions, progress: Progress) -> Report:
    from qcompress import pipeline

    plan = None if job.plan is None else read_plan(job.plan)
    return pipeline.compress(
        job.model, target, recipe, job.data, job.eval_data, plan=plan, options=options, progress=progress
    )


def read_plan(path: Path) -> CompressionPlan:
    """A plan from its file.

    Raises:
        RecipeError: no such file, or not a plan.
    """
    from qcompress.decisions import CompressionPlan

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a plan: not text", "write one with qcompress plan") from error
    return CompressionPlan.from_json(text)


def _model_to_stdout(target: Path) -> None:
    """Copy the model to stdout, if there is one (a failed gate may have discarded it)."""
    if target.with_name(f"{target.name}.data").exists():
        raise OutputError("the model needs a second file for its weights, stdout is one", "give -o a file name")
    if target.exists():
        write_bytes(target.read_bytes())
