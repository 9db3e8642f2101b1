"""``qcompress batch``: compress many models, each in a process of its own, and sum up."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcompress.cli import options as shared
from qcompress.cli.automation import AutomationChoice, automation_options
from qcompress.cli.console import wants_colour, width, write_result
from qcompress.cli.depfile import Depfile, ReadByBatch
from qcompress.cli.guard import Talk
from qcompress.cli.output import wanted
from qcompress.cli.parameters import Place
from qcompress.cli.passing import check_options, given_options, passed_on, vocabulary
from qcompress.cli.paths import check_targets, existing, make_folder
from qcompress.cli.quantities import Bytes, Duration
from qcompress.cli.zoo_progress import open_watcher
from qcompress.errors import ExitCode, OutputError, UsageError

if TYPE_CHECKING:
    from qcompress.zoo.discovery import Entry
    from qcompress.zoo.inputs import Inputs
    from qcompress.zoo.jobs import Job, Summary
    from qcompress.zoo.run import BatchSettings


@dataclass(frozen=True, slots=True)
class BatchJob:
    """Which models, and where the results go."""

    source: Path | str
    output: Path | str | None
    pattern: str
    init: bool
    dry_run: bool
    baseline: Path | None
    format: str
    json_progress: bool


job_options = shared.bundle(
    "job",
    BatchJob,
    click.argument("source", type=Place(), metavar="SOURCE"),
    click.option("-o", "--output", type=Place(), metavar="OUT", help="Folder of the results, or its URL."),
    click.option("--pattern", default="**/*.onnx", show_default=True, metavar="GLOB", help="Models in a folder."),
    click.option(
        "--init", is_flag=True, help="Write SOURCE/zoo.toml, a list of the models found there and of the options, and stop."
    ),
    click.option("--dry-run", is_flag=True, help="Say what would run and why, and stop."),
    click.option(
        "--baseline",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        metavar="OUT",
        help="Gate: no model worse than in the results of an earlier batch, in size, speed-up and accuracy.",
    ),
    click.option(
        "--format",
        type=click.Choice(["table", "json", "csv", "markdown", "html"]),
        default="table",
        show_default=True,
        help="Form of the summary on stdout.",
    ),
    click.option("--json-progress", is_flag=True, help="Progress on stderr as JSON, one event a line."),
)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """How the models are run."""

    engine: str
    jobs: int
    memory_limit: int | None
    timeout: float
    fail_fast: bool
    force: bool
    address: str | None
    retries: int

    def load(self) -> BatchSettings:
        """The settings of the batch.

        Raises:
            UsageError: a cluster for the local engine.
        """
        from qcompress.zoo.run import BatchSettings

        if self.address is not None and self.engine == "local":
            raise UsageError("the local engine has no cluster", "name another one with --engine, or leave --scheduler away")
        return BatchSettings(
            self.engine, self.jobs, self.memory_limit, self.retries, self.address, self.force, self.fail_fast
        )


engine_options = shared.bundle(
    "engine_choice",
    EngineChoice,
    click.option(
        "--engine",
        type=click.Choice(["local", "dask", "ray"]),
        default="local",
        show_default=True,
        help="What runs the models: processes of this machine, or a cluster that sees the same files.",
    ),
    click.option(
        "--scheduler",
        "--address",
        "address",
        metavar="ADDRESS",
        help="Of the cluster: tcp://host:8786 for dask; host:6379, auto or local for ray.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=2,
        show_default=True,
        help="Clusters: start a model again when its worker died, so often.",
    ),
    click.option(
        "--jobs", type=click.IntRange(0), default=0, metavar="N", help="Models at a time.  [default: as many as cores]"
    ),
    click.option(
        "--memory-limit",
        type=Bytes(),
        metavar="SIZE",
        help="Memory of everything together, for example 6GB.  [default: what is free]",
    ),
    click.option(
        "--timeout",
        type=Duration(),
        default="2h",
        show_default=True,
        metavar="TIME",
        help="End a model that takes longer; pauses while others are measured do not count. 0: never.",
    ),
    click.option("--fail-fast/--keep-going", default=False, help="End at the first failure.  [default: keep going]"),
    click.option("--force", is_flag=True, help="Run everything, also what has a result that stands."),
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@engine_options
@automation_options
@given_options
@shared.talk_options
def batch(
    talk: Talk, job: BatchJob, engine_choice: EngineChoice, automation_choice: AutomationChoice, given: Mapping[str, Any]
) -> ExitCode:
    """Compress the models of SOURCE into OUT, each in a process of its own.

    SOURCE is a folder, here or at a URL, or a manifest, see --init. A model's own data lies with it: NAME.calib.npz and NAME.eval.npz, or
    test_data_set_* folders; --data is for models without. OUT gets each model with its report and log, and a summary.

    What has a result that stands, with the same model, data, options and versions, is not run again. An interrupted batch
    goes on where it was.

    Exit code 0: all are done; 1: some failed a gate or could not be compressed, others are done; 3: none could be; 4: the rest
    is done, in some there was nothing to compress. The summary says which and why, the worst first.

    All options below --depfile are those of compress, for every model; a manifest can have others for each.
    """
    if job.init:
        _write_manifest(job, given)
        return ExitCode.DONE
    if job.output is None:
        raise UsageError("there is no folder for the results", "give -o OUT")
    if job.dry_run:
        jobs, inputs = _jobs(job, engine_choice, given, talk)
        _show_decisions(jobs, engine_choice.force, job, talk, inputs)
        return ExitCode.DONE
    with automation_choice.watch(str(job.source)):
        jobs, inputs = _jobs(job, engine_choice, given, talk)
        if isinstance(job.output, Path):
            make_folder(job.output)
        if automation_choice.files:
            check_targets(automation_choice.files, _taken(jobs, job, inputs))
        from qcompress.zoo.run import run_batch

        depfile = _depfile(automation_choice, job, jobs, inputs)
        with open_watcher(talk, job.json_progress) as watcher:
            summary = run_batch(jobs, job.output, engine_choice.load(), watcher, inputs)
        if depfile is not None:
            depfile.write()
    automation_choice.tell_batch(summary)
    return _deliver(summary, job, talk)


batch.params += passed_on()


def _jobs(job: BatchJob, engine_choice: EngineChoice, given: Mapping[str, Any], talk: Talk) -> tuple[list[Job], Inputs]:
    """One job a model, its options checked, and what they read, none of which any result replaces."""
    assert job.output is not None
    entries, folder = _entries(job, given)
    if job.baseline is not None:
        entries = _with_baseline(entries, job.baseline, job, talk)
    check_options(entries)
    from qcompress.zoo.inputs import Inputs
    from qcompress.zoo.jobs import Limits
    from qcompress.zoo.run import make_jobs, refuse_overwriting

    limits = Limits(engine_choice.timeout or None, engine_choice.memory_limit)
    jobs, inputs = make_jobs(entries, job.output, folder, limits), Inputs()
    refuse_overwriting(jobs, inputs)
    return jobs, inputs


def _taken(jobs: Sequence[Job], job: BatchJob, inputs: Inputs) -> list[Path]:
    """Files that are read, and files of the results: nothing else may be written there."""
    from qcompress.zoo.formats import SUMMARY_FILES
    from qcompress.zoo.places import beside

    found = existing(job.source, *(file for item in jobs for file in inputs.of(item)))
    if isinstance(job.output, Path):
        found += [Path(beside(item.target, name)) for item in jobs for name in item.written]
        found += [job.output / name for name in SUMMARY_FILES]
    return found


def _entries(job: BatchJob, given: Mapping[str, Any]) -> tuple[list[Entry], Path]:
    """The models and the folder their commands run in."""
    from qcompress.zoo.manifest import make_entry, read_manifest, resolved

    words = vocabulary()
    if "cost_file" in given:
        raise UsageError("one --cost-file cannot be for many models", "write cost_file for each in a manifest")
    if isinstance(job.source, str) and job.source.endswith(".toml"):
        raise UsageError("a manifest at a URL cannot be read", "copy it here; the models in it can be URLs")
    table = resolved(given, Path.cwd())
    if isinstance(job.source, Path) and job.source.suffix == ".toml":
        home = job.source.parent.absolute()
        _refuse_code_of_here(table, home)
        return read_manifest(job.source, words, table), home
    found = []
    for entry in _discovered(job):
        own = {"data": entry.data, "eval_data": entry.eval_data, "name": entry.name, "model": entry.model}
        known = {key: value for key, value in own.items() if value is not None}
        found.append(make_entry({**table, **known}, words, entry.name, Path.cwd()))
    return found, Path.cwd()


def _refuse_code_of_here(table: Mapping[str, Any], home: Path) -> None:
    """A function named on the command line whose module lies here would not be found from the manifest's folder."""
    from qcompress.data.functions import is_function
    from qcompress.zoo.inputs import Inputs, module_file

    for key in ("data", "eval_data", "timing_data", "metric"):
        spec = table.get(key)
        if not isinstance(spec, str) or not is_function(spec) or Inputs().data(spec, str(home)):
            continue
        if module_file(spec, Path.cwd()):
            raise UsageError(f"{spec} would be looked for in {home}, the folder of the manifest", "put its file there")


def _discovered(job: BatchJob) -> list[Entry]:
    """The models of a folder, here or at a URL."""
    from qcompress.zoo.discovery import discover, discover_at

    if isinstance(job.source, str):
        return discover_at(job.source, job.pattern, job.output if isinstance(job.output, str) else "")
    return discover(job.source, job.pattern, job.output if isinstance(job.output, Path) else None)


def _with_baseline(entries: Sequence[Entry], baseline: Path, job: BatchJob, talk: Talk) -> list[Entry]:
    """The entries, each held against its report in an earlier batch unless a manifest says against which."""
    if isinstance(job.output, Path) and job.output.exists() and baseline.samefile(job.output):
        raise UsageError("--baseline is the folder of the results", "keep a copy of the earlier ones elsewhere")
    reports = {entry.name: baseline.absolute() / f"{entry.name}.report.json" for entry in entries}
    missing = [entry.name for entry in entries if "--baseline" not in entry.options and not reports[entry.name].is_file()]
    if len(missing) == len(entries):
        raise UsageError(f"{baseline}: there is no report of any of these models", "name the OUT of an earlier batch")
    if missing and not talk.quiet:
        print(f"not in {baseline}, so held against nothing: {', '.join(missing)}", file=sys.stderr)
    return [
        replace(entry, options={"--baseline": (str(reports[entry.name]),), **entry.options})
        if entry.name not in missing
        else entry
        for entry in entries
    ]


def _depfile(choice: AutomationChoice, job: BatchJob, jobs: Sequence[Job], inputs: Inputs) -> Depfile | None:
    """The rule that the summary depends on everything read, if it is asked for."""
    if choice.depfile is None:
        return None
    if not isinstance(job.output, Path):
        raise UsageError("--depfile with results at a URL: Make sees the times of files", "give -o a folder")
    return Depfile(choice.depfile, [job.output / "summary.json", *choice.files], ReadByBatch(job.source, jobs, inputs))


def _write_manifest(job: BatchJob, given: Mapping[str, Any]) -> None:
    from qcompress.zoo.discovery import discover
    from qcompress.zoo.manifest import FILE_NAME, manifest_text, resolved

    if job.dry_run:
        raise UsageError("--init writes a list, --dry-run writes nothing", "leave one of the two away")
    if isinstance(job.source, str) or isinstance(job.output, str):
        raise UsageError("--init writes into a folder of this machine", "list models at URLs in a zoo.toml of your own")
    target = job.source / FILE_NAME
    text = manifest_text(discover(job.source, job.pattern, job.output), job.source, resolved(given, Path.cwd()))
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"{target} is there already", "remove it first, or edit it") from error
    except UnicodeEncodeError as error:
        target.unlink()
        raise UsageError("a list of models holds names in UTF-8 alone, and one is not", "rename the file") from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}", "check the folder") from error
    print(f"wrote {target}", file=sys.stderr)


def _show_decisions(jobs: Sequence[Job], force: bool, job: BatchJob, talk: Talk, inputs: Inputs) -> None:
    """What would run and why."""
    from qcompress.report import render_table
    from qcompress.zoo.run import decide, limits_of
    from qcompress.zoo.state import running

    rows = []
    assert job.output is not None
    for decision in decide(jobs, force, running(job.output, limits_of(jobs)), inputs):
        stands = decision.outcome is not None
        rows.append((decision.job.name, "stands" if stands else "runs", decision.reason or None, decision.job.data))
    columns = ("model", "would", "why", "data")
    if job.format in ("csv", "html"):
        raise UsageError(f"--dry-run has no --format {job.format}", "table, json or markdown")
    if wanted(job.format, talk):
        write_result(render_table("", columns, rows, job.format, width=width(), color=wants_colour()))


def _deliver(summary: Summary, job: BatchJob, talk: Talk) -> ExitCode:
    """Write the summary into the folder of results and on stdout; the exit code of the batch."""
    from qcompress.report import RenderOptions
    from qcompress.zoo.formats import SUMMARY_FILES, SUMMARY_FORMATS
    from qcompress.zoo.places import place_in, write_text
    from qcompress.zoo.state import scratch_of

    assert job.output is not None
    for name, form in SUMMARY_FILES.items():
        write_text(place_in(job.output, name), SUMMARY_FORMATS[form](summary, RenderOptions()), scratch_of(job.output))
    if wanted(job.format, talk):
        write_result(SUMMARY_FORMATS[job.format](summary, RenderOptions(width(), wants_colour(), talk.verbose)))
    return summary.exit_code
