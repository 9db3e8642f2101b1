"""``qcompress compare``: the report for a pair of models, whoever compressed the second one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from qcompress.cli import options as shared
from qcompress.cli.console import open_progress
from qcompress.cli.guard import Talk
from qcompress.cli.limits import GateChoice, gate_options
from qcompress.cli.output import deliver
from qcompress.cli.paths import check_report_names, check_targets, existing, input_files
from qcompress.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Pair:
    """The two models and the data to compare them on."""

    float_model: Path
    compressed: Path
    data: str | None


pair_options = shared.bundle(
    "pair",
    Pair,
    click.argument("float_model", metavar="FLOAT", type=click.Path(path_type=Path)),
    click.argument("compressed", metavar="COMPRESSED", type=click.Path(path_type=Path)),
    click.option("--data", metavar="SOURCE", help="Labelled or unlabelled data to measure on; all of it is used."),
)


@click.command(context_settings=shared.CONTEXT)
@pair_options
@shared.data_options
@shared.run_options
@gate_options
@shared.report_options
@shared.talk_options
def compare(
    talk: Talk,
    pair: Pair,
    data_choice: shared.DataChoice,
    run_choice: shared.RunChoice,
    gate_choice: GateChoice,
    report_choice: shared.ReportChoice,
) -> ExitCode:
    """Report size, speed and accuracy of COMPRESSED beside FLOAT, for an existing pair."""
    check_report_names(report_choice.report)
    check_targets(report_choice.report, input_files(pair.float_model, pair.compressed) + existing(pair.data))
    from qcompress.pipeline import compare_models
    from qcompress.results import Gates

    gates = gate_choice.load(Gates(), run_choice.metric)
    options = run_choice.load(data_choice.load())
    with open_progress(talk) as progress:
        report = compare_models(
            pair.float_model, pair.compressed, pair.data, options=options, gates=gates, progress=progress
        )
    return deliver(report, report_choice, talk)
