"""``qcompress operators``: which operators can be compressed, and how."""

from __future__ import annotations

import click

from qcompress.cli import options as shared
from qcompress.cli.console import write_result
from qcompress.cli.tables import Table, as_json, as_markdown, as_text


@click.command(context_settings=shared.CONTEXT)
@shared.format_option
def operators(format: str) -> None:
    """List the ONNX operators that can be compressed, and in which forms."""
    from qcompress.operators import support_rows

    table = Table(("operator", "forms", "remark"), tuple(support_rows()))
    if format == "json":
        write_result(as_json([dict(zip(table.columns, row, strict=True)) for row in table.rows]))
    else:
        write_result(as_markdown(table) if format == "markdown" else as_text([table]))
