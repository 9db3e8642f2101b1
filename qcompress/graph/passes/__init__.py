"""Preparation that changes no result: what every form relies on, each pass one file and one line here."""

from collections.abc import Callable

from qcompress.graph.model import Model
from qcompress.graph.passes.affine import fold_affine
from qcompress.graph.passes.constants import fold_constants, lift_constants
from qcompress.graph.passes.gates import join_gates
from qcompress.graph.passes.halves import widen_halves
from qcompress.graph.passes.hard_sigmoids import join_hard_sigmoids
from qcompress.graph.passes.identities import read_identities
from qcompress.graph.passes.initializers import unlist_initializers
from qcompress.graph.passes.inline import inline_functions
from qcompress.graph.passes.names import unique_names
from qcompress.graph.passes.pads import fold_pads
from qcompress.graph.passes.scales import fold_scales
from qcompress.graph.passes.short_lines import lift_short_lines
from qcompress.graph.passes.unused import remove_unused

Pass = Callable[[Model], int]

UNPACKING: dict[str, Pass] = {
    "inline functions": inline_functions,
    "unlist initializers": unlist_initializers,
}
"""What must be done before the operator set is raised: the converter drops functions and adds initializers."""

PREPARATION: dict[str, Pass] = {
    "lift constants": lift_constants,
    "read identities": read_identities,
    "join hard sigmoids": join_hard_sigmoids,
    "unique names": unique_names,
    "widen halves": widen_halves,
    "join gates": join_gates,
    "fold constants": fold_constants,
    "fold pads": fold_pads,
    "fold affine": fold_affine,
    "fold scales": fold_scales,
    "lift short lines": lift_short_lines,
    "remove unused": remove_unused,
}
"""The passes in the order they run; each returns how many places it changed and keeps every layer's name."""


def unpack(model: Model) -> dict[str, int]:
    """Run every unpacking pass on the model, in place; returns pass name -> places changed."""
    return {name: run(model) for name, run in UNPACKING.items()}


def prepare(model: Model) -> dict[str, int]:
    """Run every preparation pass on the model, in place; returns pass name -> places changed."""
    return {name: run(model) for name, run in PREPARATION.items()}
