"""``qcompress prune``: compress with nothing but pruning, unless it is told to quantize as well."""

from __future__ import annotations

from copy import copy

import click

from qcompress.cli import options as shared
from qcompress.cli.compress import compress

ABOUT_ACTIVATIONS = ("activations", "ranges", "clip_weights", "correct_bias", "mode", "objective")
"""Options that mean nothing to float models: they work, and the help does not show them."""


def _parameter(parameter: click.Parameter) -> click.Parameter:
    """A parameter of ``compress`` as this command has it."""
    own = copy(parameter)
    if isinstance(own, click.Option) and own.name == "recipe":
        own.default = "prune"
    if isinstance(own, click.Option) and own.name in ABOUT_ACTIVATIONS:
        own.hidden = True
    return own


prune = click.Command(
    "prune",
    callback=compress.callback,
    params=[_parameter(parameter) for parameter in compress.params],
    context_settings=shared.CONTEXT,
    help="""Write MODEL to OUT with fewer weights, and report its size, speed and accuracy beside the original's.

    Half of the weights become zero, where that loses least, and the others are solved again; zeros are left out of the file. With
    --prune-pattern channel whole channels are cut out: the model is smaller and faster in any runtime. The same
    as compress --recipe prune.
    """,
)
