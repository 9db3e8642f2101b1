"""``qcompress operators``: which operators can be compressed, and how."""

from __future__ import annotations

import click

from qcompress.cli import options as shared
from qcompress.cli.console import wants_colour, width, write_result


@click.command(context_settings=shared.CONTEXT)
@shared.format_option
def operators(format: str) -> None:
    """List the ONNX operators that can be compressed, and in which forms."""
    from qcompress.operators import support_rows
    from qcompress.report import render_table

    columns = ("operator", "forms", "remark")
    write_result(render_table("", columns, support_rows(), format, width=width(), color=wants_colour()))
