"""Which weight can be stored how: the rules of every (operator, form, scheme) cell, each "no" with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcompress.operators.table import OPERATORS, Role
from qcompress.types import CodebookScheme, FloatScheme, Form, PerBlock, QuantScheme, Scheme, parse_scheme

PACKED = 11
"""The first operator set with CumSum, which puts zeros back, and the oldest that codes of fewer than 8 bits are tested in."""

CHANNEL_SCALES = 13
"""The first operator set whose DequantizeLinear has a scale per channel, and with bfloat16."""

BLOCKS = 21
"""The first operator set whose DequantizeLinear has blocks, and with the types int4 and uint4."""

LEAST_BLOCK = 16
"""The smallest block that the runtime's product with few bits knows; larger ones are powers of two."""

KINDS: dict[str, tuple[str, ...]] = {
    "2 to 8 bits": ("int2", "int3/channel", "int4/channel", "int8/channel"),
    "2 to 8 bits asymmetric": ("uint3/asym", "uint4/asym/channel", "uint8/asym/channel"),
    "blocks": ("int4/block32", "uint4/asym/block32", "int8/block32"),
    "16 bits": ("int16/channel",),
    "codebooks": ("codebook16/channel", "codebook256"),
    "powers of two": ("log4/channel",),
    "float16": ("float16",),
    "bfloat16": ("bfloat16",),
    "float32": ("float32",),
}
"""Kinds of schemes -> schemes that stand for each."""

SHOWN = tuple(scheme for schemes in KINDS.values() for scheme in schemes)
"""One scheme of every sort."""

NO_FORM: dict[tuple[str, Form], str] = {
    ("Conv", Form.DYNAMIC): "ConvInteger runs at 0.1 to 0.5 of float speed",
    ("Conv", Form.WEIGHT_ONLY): "the weight would be decoded again on every run",
    ("ConvTranspose", Form.STATIC): "the runtime has no integer kernel",
    ("ConvTranspose", Form.DYNAMIC): "the runtime has no integer kernel",
    ("ConvTranspose", Form.WEIGHT_ONLY): "the weight would be decoded again on every run",
    ("LSTM", Form.STATIC): "the runtime has no integer kernel in the standard operator set",
    ("LSTM", Form.DYNAMIC): "the runtime has no integer kernel in the standard operator set",
    ("LSTM", Form.WEIGHT_ONLY): "the weight would be decoded again on every run",
    ("GRU", Form.STATIC): "the runtime has no integer kernel",
    ("GRU", Form.DYNAMIC): "the runtime has no integer kernel",
    ("GRU", Form.WEIGHT_ONLY): "the weight would be decoded again on every run",
    ("RNN", Form.STATIC): "the runtime has no integer kernel",
    ("RNN", Form.DYNAMIC): "the runtime has no integer kernel",
    ("RNN", Form.WEIGHT_ONLY): "the weight would be decoded again on every run",
    ("Gather", Form.STATIC): "a look-up multiplies nothing",
    ("Gather", Form.DYNAMIC): "a look-up multiplies nothing",
    ("Gather", Form.WEIGHT_ONLY): "the whole table would be decoded on every run; a table that a MatMul reads too can be",
}
"""Why an operator's weights cannot take a form; no operator but Gather looks up rows."""


def why_not(form: Form, scheme: Scheme, opset: int, shape: tuple[int, ...] = ()) -> str:
    """Why a form cannot carry a scheme, or an empty string.

    Args:
        form: one that the operator has.
        scheme: on the weight's own axes when ``shape`` is given.
        opset: the version of the default operator set that the model may use.
        shape: of the weight, empty when any is meant.
    """
    return portable(form, scheme, opset) or RULES[form](scheme, shape)


def portable(form: Form, scheme: Scheme, opset: int) -> str:
    """Why an operator set is too old for a scheme in a form, or an empty string."""
    needed = needed_opset(form, scheme)
    return "" if opset >= needed else f"{scheme} {form.value} needs operator set {needed}, not {opset}"


def needed_opset(form: Form, scheme: Scheme) -> int:
    """The first operator set that has what a form with a scheme is written with."""
    decoded = form in (Form.STATIC, Form.WEIGHT_ONLY)
    if decoded and isinstance(scheme, QuantScheme) and isinstance(scheme.granularity, PerBlock):
        return BLOCKS
    if form in (Form.STATIC, Form.DYNAMIC, Form.WEIGHT_ONLY) or scheme == FloatScheme("bfloat16"):
        return CHANNEL_SCALES
    return PACKED if scheme.bits < 8 or scheme == FloatScheme("float32") else 1


def wanted_opset(scheme: Scheme) -> int:
    """The operator set worth raising a model to: the first one in which every form of the scheme has its best kernel."""
    if not isinstance(scheme, QuantScheme):
        return CHANNEL_SCALES
    return BLOCKS if scheme.bits == 4 or isinstance(scheme.granularity, PerBlock) else CHANNEL_SCALES


def _evenly_spaced(scheme: Scheme) -> str:
    if isinstance(scheme, FloatScheme):
        return "numbers that stay floats have no codes to compute with"
    if isinstance(scheme, CodebookScheme):
        return "levels that are not evenly spaced cannot be multiplied as integers"
    return "" if scheme.bits <= 8 else "kernels of this form have at most 8 bits"


def _static(scheme: Scheme, shape: tuple[int, ...]) -> str:
    reason = _evenly_spaced(scheme)
    if not reason and isinstance(scheme, QuantScheme) and isinstance(scheme.granularity, PerBlock):
        return "integer kernels add up whole channels: one scale a channel, not a block"
    return reason


def _dynamic(scheme: Scheme, shape: tuple[int, ...]) -> str:
    reason = _static(scheme, shape)
    if not reason and isinstance(scheme, QuantScheme) and not scheme.symmetric:
        return "the integer product is written for zero points of 0"
    return reason


def _weight_only(scheme: Scheme, shape: tuple[int, ...]) -> str:
    reason = _evenly_spaced(scheme)
    if reason or not isinstance(scheme, QuantScheme) or not isinstance(scheme.granularity, PerBlock):
        return reason
    size = scheme.granularity.size
    if size < LEAST_BLOCK or size & (size - 1):
        return f"the runtime's kernel has blocks of 16, 32, 64 and so on, not of {size}"
    if shape and shape[scheme.granularity.axis] % size:
        return f"blocks of {size} do not divide {shape[scheme.granularity.axis]} inputs"
    return ""


def _folded(scheme: Scheme, shape: tuple[int, ...]) -> str:
    return ""


def _gathered(scheme: Scheme, shape: tuple[int, ...]) -> str:
    if scheme == FloatScheme("float32"):
        return "rows are looked up in all numbers, so that zeros save nothing"
    if len(shape) == 1 and scheme.bits < 8:
        return "a row of one number cannot share a byte"
    if not isinstance(scheme, FloatScheme) and isinstance(scheme.granularity, PerBlock):
        return "" if not shape or scheme.granularity.axis % len(shape) else "blocks along the rows that are looked up"
    return ""


RULES = {
    Form.STATIC: _static,
    Form.DYNAMIC: _dynamic,
    Form.WEIGHT_ONLY: _weight_only,
    Form.FOLDED: _folded,
    Form.GATHERED: _gathered,
}
"""Form -> what its kernel or operators can carry."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the support table; ``reason``: why it is empty, or an empty string."""

    op_type: str
    form: Form
    scheme: Scheme
    reason: str


def cells(opset: int = BLOCKS) -> Iterator[Cell]:
    """The support table: every operator with weights, in every form, with a scheme of every kind."""
    for row in OPERATORS.values():
        for form in Form if row.weights else ():
            for text in SHOWN:
                scheme = parse_scheme(text)
                yield Cell(row.op_type, form, scheme, no_form(row.op_type, form) or why_not(form, scheme, opset))


def no_form(op_type: str, form: Form) -> str:
    """Why the weights of an operator cannot take a form at all, or an empty string."""
    if form in OPERATORS[op_type].forms:
        return ""
    if form is Form.GATHERED and OPERATORS[op_type].role is not Role.LOOKUP:
        return "rows are looked up by Gather only"
    return NO_FORM[op_type, form]


def cell_rows(opset: int = BLOCKS) -> list[tuple[str, str, str, str]]:
    """(operator, form, kinds of schemes it carries, why not the others) for every operator with weights and every form."""
    found: dict[tuple[str, Form], dict[str, str]] = {}
    kinds = {scheme: kind for kind, schemes in KINDS.items() for scheme in schemes}
    for cell in cells(opset):
        reasons = found.setdefault((cell.op_type, cell.form), {})
        kind = kinds[str(cell.scheme)]
        reasons[kind] = reasons.get(kind) or cell.reason
    rows = []
    for (op_type, form), reasons in found.items():
        taken = [kind for kind, reason in reasons.items() if not reason]
        refused: dict[str, list[str]] = {}
        for kind, reason in reasons.items():
            refused.setdefault(reason, []).append(kind)
        because = (reason if not taken else f"{', '.join(names)}: {reason}" for reason, names in refused.items() if reason)
        rows.append((op_type, form.value, ", ".join(taken) or "none", "; ".join(because)))
    return rows
