"""Every feed is checked against the model's signature before the model sees it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

from qcompress.errors import DataError
from qcompress.types import Array, TensorSignature

Signature = tuple[TensorSignature, ...]


def check_names(names: Iterable[str], signature: Signature, known: tuple[str, ...], where: str) -> None:
    """Refuse missing and unknown inputs; ``known`` are further names that may be there, such as the model's outputs.

    Raises:
        DataError: names the input and its nearest match.
    """
    given = sorted(names)
    wanted = [item.name for item in signature]
    extra = [name for name in given if name not in wanted and name not in known]
    for name in wanted:
        if name not in given:
            near = get_close_matches(name, extra, 1) or extra[:1]
            hint = f"is {near[0]!r} meant to be it?" if near else f"the model's inputs are {', '.join(wanted)}"
            raise DataError(f"{where} has no array for the model's input {name!r}", hint)
    if extra:
        near = get_close_matches(extra[0], wanted, 1)
        inputs = f"the model's inputs are {', '.join(wanted)}; true classes go by the name 'labels'"
        hint = f"did you mean {near[0]!r}?" if near else inputs
        raise DataError(f"{where} has {extra[0]!r}, which is not an input of the model", hint)


def check_form(item: TensorSignature, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> None:
    """Refuse an array of the wrong type or shape.

    Raises:
        DataError: names the input, what it is and what the model wants.
    """
    if "(" in item.dtype:
        raise DataError(f"input {item.name!r} of the model is a {item.dtype}, not a tensor", "such models cannot be fed")
    if not _convertible(dtype, item.dtype):
        hint = f"store it as {item.dtype}"
        if dtype.kind in "iu" and item.dtype.startswith("float"):
            hint += ", after the same normalisation as in training"
        raise DataError(f"input {item.name!r} of {where} is {dtype}, but the model wants {item.dtype}", hint)
    if item.shape is None:
        return
    fits = len(shape) == len(item.shape)
    if fits:
        fits = all(want == have for want, have in zip(item.shape, shape, strict=True) if isinstance(want, int))
    if not fits:
        raise DataError(
            f"input {item.name!r} of {where} has shape {shape}, but the model wants {shape_text(item)}",
            f"the rank must be {len(item.shape)}" if len(shape) != len(item.shape) else "change the sizes that differ",
        )


def checked(item: TensorSignature, array: Array, where: str) -> Array:
    """The array in the model's type.

    Exact widenings (int32 to int64, float16 to float32) and float64 to float32 are made; nothing else is converted.

    Raises:
        DataError: wrong type or shape, or a NaN or infinite value.
    """
    check_form(item, array.dtype, array.shape, where)
    if item.dtype not in ("str", array.dtype.name):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            array = array.astype(item.dtype)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if item.dtype in ("float16", "float32", "float64") and not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinite"
        raise DataError(f"input {item.name!r} of {where} has {kind} values", "remove or repair this sample")
    return array


def conversion_note(item: TensorSignature, dtype: np.dtype[Any]) -> str | None:
    """What ``checked`` will convert, said in words, or None."""
    if item.dtype in ("str", dtype.name):
        return None
    return f"input {item.name!r} is {dtype.name} in the data and was converted to {item.dtype}"


def shape_text(item: TensorSignature) -> str:
    """A declared shape for people: (batch, 3, ?, ?)."""
    if item.shape is None:
        return "any shape"
    inner = ", ".join("?" if dim is None else str(dim) for dim in item.shape)
    return f"({inner})" if len(item.shape) != 1 else f"({inner},)"


def _convertible(dtype: np.dtype[Any], wanted: str) -> bool:
    if wanted == "str":
        return dtype.kind in "UO"
    if dtype.name == wanted:
        return True
    if dtype.kind not in "iuf" or wanted == "bool":
        return False
    target = np.dtype(wanted) if wanted != "bfloat16" else None
    if target is None or (dtype.kind == "f") != (target.kind == "f"):
        return False
    return np.can_cast(dtype, target, "safe") or (dtype.name, wanted) == ("float64", "float32")
