"""``qcompress compress``: write a smaller model and say what it cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from qcompress.cli import options as shared
from qcompress.cli.automation import AutomationChoice, BaselineChoice, automation_options, baseline_options
from qcompress.cli.console import open_progress, write_bytes
from qcompress.cli.depfile import Depfile, Read
from qcompress.cli.fetching import Copies, local_copies
from qcompress.cli.guard import Talk
from qcompress.cli.limits import GateChoice, limit_options
from qcompress.cli.output import deliver
from qcompress.cli.paths import check_report_names, check_targets, existing, input_files
from qcompress.cli.pruning import PruneChoice, prune_options
from qcompress.cli.searching import CostChoice, EffortChoice, cost_options, effort_options
from qcompress.errors import ExitCode, OutputError, RecipeError, UsageError

if TYPE_CHECKING:
    from qcompress.decisions import CompressionPlan
    from qcompress.pipeline import RunOptions
    from qcompress.planning import FrontierPoint
    from qcompress.progress import Progress
    from qcompress.recipe import Recipe
    from qcompress.results import Report

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Job:
    """What goes in and what comes out."""

    model: str
    output: str
    data: str | None
    eval_data: str | None
    plan: Path | None
    pick: int | None
    discard_on_fail: bool


job_options = shared.bundle(
    "job",
    Job,
    click.argument("model"),
    click.option("-o", "--output", required=True, metavar="OUT", help="The compressed model; - for stdout."),
    click.option("--data", metavar="SOURCE", help="Calibration data: .npz, .npy, folder, module:function or random."),
    click.option("--eval-data", metavar="SOURCE", help="Labelled or unlabelled data to measure on."),
    click.option(
        "--plan", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Replay a plan of qcompress plan."
    ),
    click.option(
        "--pick", type=click.IntRange(1), metavar="N", help="Write point N of what plan --frontier lists for these options."
    ),
    click.option("--discard-on-fail", is_flag=True, help="Write no model when a gate fails."),
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@shared.recipe_options
@prune_options
@shared.data_options
@shared.run_options
@effort_options
@cost_options
@limit_options
@baseline_options
@shared.report_options
@automation_options
@shared.talk_options
def compress(
    talk: Talk,
    job: Job,
    recipe_choice: shared.RecipeChoice,
    prune_choice: PruneChoice,
    data_choice: shared.DataChoice,
    run_choice: shared.RunChoice,
    effort_choice: EffortChoice,
    cost_choice: CostChoice,
    gate_choice: GateChoice,
    baseline_choice: BaselineChoice,
    report_choice: shared.ReportChoice,
    automation_choice: AutomationChoice,
) -> ExitCode:
    """Write a smaller MODEL to OUT, and report its size, speed and accuracy beside the original's.

    Without data, only forms that need none are used, and accuracy is not measured. Without --eval-data, a part of
    --data is held out and measured on. Each layer gets the form that pays and together they keep the limit on
    accuracy: 1 % of agreement with the original, unless --max-accuracy-drop says otherwise.
    """
    with automation_choice.watch(job.model) as start, local_copies() as copies:
        job, cost_choice = _local(job, copies), cost_choice.local(copies)
        _check(job, {**recipe_choice.changes(), **prune_choice.changes()}, cost_choice)
        check_report_names(report_choice.report)
        results = [*([] if job.output == STDOUT else [Path(job.output)]), *report_choice.report, *automation_choice.files]
        inputs = input_files(Path(job.model)) + existing(
            job.data, job.eval_data, job.plan, recipe_choice.recipe, baseline_choice.baseline
        )
        check_targets(results, inputs)
        cost_choice.check(inputs, results, job.data)
        recipe = recipe_choice.load(prune_choice)
        recipe = replace(recipe, gates=gate_choice.load(recipe.gates, run_choice.metric))
        if recipe.gates.min_speedup is not None and not run_choice.latency:
            raise UsageError("a speed-up that is not measured cannot be checked", "leave --no-latency or --min-speedup away")
        options = effort_choice.apply(cost_choice.apply(run_choice.load(data_choice.load(), job.discard_on_fail)))
        options = baseline_choice.apply(options)
        files = existing(job.plan, recipe_choice.recipe, baseline_choice.baseline, cost_choice.cost_file)
        data = tuple(place for place in (job.data, job.eval_data, cost_choice.timing_data) if not copies.has(place))
        models = () if copies.has(job.model) else (Path(job.model),)
        read = Read(models, data, (run_choice.metric,), tuple(files))
        depfile = None if automation_choice.depfile is None else Depfile(automation_choice.depfile, results, read)
        report, stream = _work(job, recipe, options, talk)
        report = copies.report(report)
        if depfile is not None:
            depfile.write()
    automation_choice.tell(report, start)
    return deliver(report, report_choice, talk, stream)


def _local(job: Job, copies: Copies) -> Job:
    """The job with copies of what lies at URLs."""
    return replace(job, model=copies.model(job.model), data=copies.data(job.data), eval_data=copies.data(job.eval_data))


def _work(job: Job, recipe: Recipe, options: RunOptions, talk: Talk) -> tuple[Report, TextIO | None]:
    """The report, and where it goes when stdout is taken by the model."""
    if job.output != STDOUT:
        with open_progress(talk) as progress:
            return _run(job, Path(job.output), recipe, options, progress), None
    import tempfile

    with tempfile.TemporaryDirectory(prefix="qcompress-") as folder:
        target = Path(folder, "model.onnx")
        with open_progress(talk) as progress:
            report = _run(job, target, recipe, options, progress)
        _model_to_stdout(target)
    return replace(report, target=STDOUT), sys.stderr


def _check(job: Job, changes: Mapping[str, object], cost_choice: CostChoice) -> None:
    """Refuse options that do not go together before the long work starts; ``changes``: to the recipe."""
    if job.plan is not None and changes:
        raise UsageError("--plan already says what is done to each layer", "leave the options that change the recipe away")
    if job.plan is not None and (job.pick is not None or cost_choice.cost_file is not None):
        other = "--pick" if job.pick is not None else "--cost-file"
        raise UsageError(f"--plan and {other} do not go together: a plan is already made", "leave one of them away")
    if job.pick is not None and job.data is None:
        raise UsageError("--pick needs --data", "give the options that plan --frontier was called with")
    if job.output == STDOUT and sys.stdout.isatty():
        raise UsageError("a model is not written to a terminal", "redirect stdout, or give -o a file name")
    if job.output == "":
        raise UsageError("-o has no file name", "give the name of the compressed model, or - for stdout")


def _run(job: Job, target: Path, recipe: Recipe, options: RunOptions, progress: Progress) -> Report:
    from qcompress import pipeline

    plan = None if job.plan is None else read_plan(job.plan)
    if job.pick is not None:
        plan = _picked(job.pick, pipeline.plan_frontier(job.model, recipe, job.data, options=options, progress=progress))
    return pipeline.compress(
        job.model, target, recipe, job.data, job.eval_data, plan=plan, options=options, progress=progress
    )


def _picked(number: int, points: Sequence[FrontierPoint]) -> CompressionPlan:
    if number > len(points):
        raise UsageError(f"--pick {number}: the frontier has {len(points)} points", "qcompress plan --frontier lists them")
    return points[number - 1].plan


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
