"""``qcompress operators``: which operators can be compressed, and how."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qcompress.cli import options as shared
from qcompress.cli.console import wants_colour, width, write_result


@click.command(context_settings=shared.CONTEXT)
@shared.format_option
@click.option("--cells", is_flag=True, help="Every form of every operator: the schemes it carries, and why not the others.")
def operators(format: str, cells: bool) -> None:
    """List the ONNX operators that can be compressed, and in which forms."""
    from qcompress.operators import cell_rows, support_rows
    from qcompress.report import render_table

    columns: tuple[str, ...] = ("operator", "forms", "remark")
    rows: Sequence[Sequence[object]] = support_rows()
    if cells:
        columns, rows = ("operator", "form", "schemes", "why not the others"), cell_rows()
    write_result(render_table("", columns, rows, format, width=width(), color=wants_colour()))
