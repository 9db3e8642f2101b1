"""How numbers are stored in fewer bits: schemes and their notation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from qcompress.errors import RecipeError
from qcompress.types.arrays import Array


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor: weight (64, 3, 3, 3) -> scale ()."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale per index of ``axis``: weight (64, 3, 3, 3), axis 0 -> scale (64,)."""

    axis: int = 0


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale per run of ``size`` along ``axis``: weight (64, 128), axis 1, size 32 -> scale (64, 4)."""

    size: int
    axis: int = -1


Granularity = PerTensor | PerChannel | PerBlock

_SCHEME = re.compile(r"(?P<sign>u?)int(?P<bits>\d+)(?P<asym>/asym)?(?:/(?P<grain>tensor|channel|block(?P<size>\d+)))?")


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """How numbers become integers: width, sign, symmetry and how many share a scale.

    The notation is the same on the command line, in recipes, plans and reports: ``int8``, ``int8/channel``,
    ``int4/block32``, ``uint8/asym``. The axis of a granularity is a fact of the layer, not of the notation.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    granularity: Granularity = field(default_factory=PerTensor)

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise RecipeError(f"a scheme has 2 to 16 bits, not {self.bits}", "write for example int8/channel")
        if isinstance(self.granularity, PerBlock) and self.granularity.size < 1:
            raise RecipeError("a block has at least one element", "write for example int4/block32")

    @classmethod
    def parse(cls, text: str) -> QuantScheme:
        """Read the notation.

        Raises:
            RecipeError: the text is not a scheme.
        """
        match = _SCHEME.fullmatch(text.strip())
        if match is None:
            raise RecipeError(
                f"{text!r} is not a scheme", "write for example int8, int8/channel, int4/block32 or uint8/asym"
            )
        granularity: Granularity = PerTensor()
        if match["size"] is not None:
            granularity = PerBlock(int(match["size"]))
        elif match["grain"] == "channel":
            granularity = PerChannel()
        return cls(int(match["bits"]), match["sign"] == "", match["asym"] is None, granularity)

    def __str__(self) -> str:
        grain = ""
        if isinstance(self.granularity, PerChannel):
            grain = "/channel"
        elif isinstance(self.granularity, PerBlock):
            grain = f"/block{self.granularity.size}"
        return f"{'' if self.signed else 'u'}int{self.bits}{'' if self.symmetric else '/asym'}{grain}"

    @property
    def qmin(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def midpoint(self) -> int:
        """The zero point of a symmetric tensor: 0 signed, half the range unsigned."""
        return 0 if self.signed else 1 << (self.bits - 1)

    @property
    def storage(self) -> np.dtype[Any]:
        """The smallest numpy integer type that holds a code."""
        width = 8 if self.bits <= 8 else 16
        return np.dtype(f"{'' if self.signed else 'u'}int{width}")

    def on_axis(self, axis: int) -> QuantScheme:
        """The same scheme with its granularity along ``axis``."""
        if isinstance(self.granularity, PerTensor):
            return self
        return replace(self, granularity=replace(self.granularity, axis=axis))

    def per_tensor(self) -> QuantScheme:
        """The same scheme with one scale for all."""
        return replace(self, granularity=PerTensor())


class Levels(StrEnum):
    """Where the levels of a codebook come from."""

    CODEBOOK = "codebook"
    """Fitted to the weights."""
    LOG = "log"
    """Powers of two with either sign, and 0."""


_CODEBOOK = re.compile(r"(?:codebook(?P<entries>\d+)|log(?P<bits>\d+))(?:/(?P<grain>tensor|channel))?")


@dataclass(frozen=True, slots=True)
class CodebookScheme:
    """How numbers become indices into a list of levels that all groups share, each group with a scale of its own.

    Notation: ``codebook16/channel`` has 16 fitted levels, ``log4/channel`` powers of two in 4 bits.
    """

    bits: int = 4
    levels: Levels = Levels.CODEBOOK
    granularity: Granularity = field(default_factory=PerTensor)

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise RecipeError(
                f"a codebook has 4 to 256 levels, not {1 << self.bits}", "write for example codebook16/channel"
            )
        if isinstance(self.granularity, PerBlock):
            raise RecipeError("a codebook has a scale per tensor or per channel", "write for example codebook16/channel")

    @classmethod
    def parse(cls, text: str) -> CodebookScheme:
        """Read the notation.

        Raises:
            RecipeError: the text is not a codebook.
        """
        match = _CODEBOOK.fullmatch(text.strip())
        entries = 0 if match is None else int(match["entries"] or 0) or 1 << int(match["bits"])
        if match is None or entries & (entries - 1):
            raise RecipeError(f"{text!r} is not a codebook", "write for example codebook16/channel or log4/channel")
        granularity: Granularity = PerChannel() if match["grain"] == "channel" else PerTensor()
        levels = Levels.CODEBOOK if match["entries"] else Levels.LOG
        return cls(entries.bit_length() - 1, levels, granularity)

    def __str__(self) -> str:
        grain = "/channel" if isinstance(self.granularity, PerChannel) else ""
        return f"codebook{1 << self.bits}{grain}" if self.levels is Levels.CODEBOOK else f"log{self.bits}{grain}"

    def on_axis(self, axis: int) -> CodebookScheme:
        """The same scheme with its granularity along ``axis``."""
        return replace(self, granularity=PerChannel(axis)) if isinstance(self.granularity, PerChannel) else self

    def per_tensor(self) -> CodebookScheme:
        """The same scheme with one scale for all."""
        return replace(self, granularity=PerTensor())


@dataclass(frozen=True, slots=True)
class FloatScheme:
    """Numbers stored in a float type: ``float16``, ``bfloat16``, or ``float32``, where only zeros save anything."""

    dtype: str = "float16"

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return 32 if self.dtype == "float32" else 16

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type of a number; bfloat16 comes with onnx."""
        if self.dtype == "bfloat16":
            import ml_dtypes

            narrow: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
            return narrow
        return np.dtype(self.dtype)

    def __str__(self) -> str:
        return self.dtype


Scheme = QuantScheme | CodebookScheme | FloatScheme
"""Every way to store a weight in fewer bits."""

FLOAT_SCHEMES = ("float16", "bfloat16", "float32")


def parse_scheme(text: str) -> Scheme:
    """Read the notation of any scheme.

    Raises:
        RecipeError: the text is not a scheme.
    """
    text = text.strip()
    if text in FLOAT_SCHEMES:
        return FloatScheme(text)
    return CodebookScheme.parse(text) if text.startswith(("codebook", "log")) else QuantScheme.parse(text)


def spread(parameter: Array, shape: tuple[int, ...], granularity: Granularity) -> Array:
    """A scale or zero point made broadcastable against an array of ``shape``: (channels,) -> (1, .., channels, .., 1)."""
    if isinstance(granularity, PerTensor):
        return parameter
    axis = granularity.axis % len(shape)
    if isinstance(granularity, PerChannel):
        return parameter.reshape([-1 if index == axis else 1 for index in range(len(shape))])
    return np.take(parameter, np.arange(shape[axis]) // granularity.size, axis=axis)  # the last block may be partial
