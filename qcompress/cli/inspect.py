"""``qcompress inspect``: what a model holds, what can be compressed, and why the rest cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qcompress.cli import options as shared
from qcompress.cli.console import wants_colour, width, write_result
from qcompress.cli.guard import Talk
from qcompress.cli.output import wanted

if TYPE_CHECKING:
    from qcompress.pipeline import Inspection
    from qcompress.results import WeightRow
    from qcompress.types import TensorSignature


@dataclass(frozen=True, slots=True)
class InspectJob:
    """What is looked at, and the form of the answer."""

    model: Path
    format: str


job_options = shared.bundle(
    "job",
    InspectJob,
    click.argument("model", type=click.Path(path_type=Path)),
    shared.format_option,
)


@click.command(context_settings=shared.CONTEXT)
@job_options
@shared.recipe_options
@shared.talk_options
def inspect(talk: Talk, job: InspectJob, recipe_choice: shared.RecipeChoice) -> None:
    """Show MODEL's layers, weights and bytes, what can be compressed, and why the rest cannot. Needs no data."""
    from qcompress.pipeline import inspect_model

    inspection = inspect_model(job.model, recipe_choice.load())
    if job.format == "json":
        write_result(json.dumps(asdict(inspection), indent=2, ensure_ascii=False))
    elif wanted(job.format, talk):
        write_result("\n\n".join(_sections(inspection, job.format)))


def _sections(inspection: Inspection, form: str) -> Iterator[str]:
    from qcompress.report import render_table

    facts = (
        ("nodes", str(inspection.nodes)),
        ("opset", f"{inspection.opset} (IR {inspection.ir_version})"),
        ("producer", inspection.producer or "unknown"),
        ("inputs", ", ".join(map(_signature, inspection.inputs))),
        ("outputs", ", ".join(map(_signature, inspection.outputs))),
        ("operators", ", ".join(f"{count} {name}" for name, count in sorted(inspection.operators.items()))),
        ("file", f"{inspection.file_bytes:,} bytes"),
        ("compressible weights", f"{inspection.compressible_bytes:,} bytes"),
        ("estimated file after", f"{inspection.estimated_bytes:,} bytes"),
    )
    columns = ("weight", "layers", "shape", "type", "bytes", "after", "becomes")
    rows = [_weight(row) for row in inspection.weights]
    yield render_table(inspection.path, ("fact", "value"), facts, form, width=width(), color=wants_colour())
    yield render_table("Weights", columns, rows, form, width=width(), color=wants_colour())


def _signature(tensor: TensorSignature) -> str:
    shape = "" if tensor.shape is None else ", ".join("?" if dim is None else str(dim) for dim in tensor.shape)
    return f"{tensor.name}: {tensor.dtype}[{shape}]"


def _weight(row: WeightRow) -> tuple[str, ...]:
    layers = ", ".join(row.layers[:3]) + (f" and {len(row.layers) - 3} more" if len(row.layers) > 3 else "")
    becomes = f"{row.form} {row.scheme or ''}".strip() if row.form else f"kept: {row.reason}"
    shape = "x".join(map(str, row.shape))
    return row.weight, layers, shape or "scalar", row.dtype, f"{row.bytes_before:,}", f"{row.bytes_after:,}", becomes
