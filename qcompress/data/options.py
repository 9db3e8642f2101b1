"""How data is read: batch size, seed, image preparation and limits against hostile files."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from qcompress.errors import UsageError


class Layout(StrEnum):
    """The order of the axes of an image tensor."""

    NCHW = "nchw"
    NHWC = "nhwc"


class Resize(StrEnum):
    """How an image gets the model's size."""

    CROP = "crop"
    """Scale the shorter side to fit, then cut the centre: shapes stay as they are."""
    STRETCH = "stretch"
    """Scale both sides independently: nothing is cut."""


class Colour(StrEnum):
    """The order of the colour channels."""

    RGB = "rgb"
    BGR = "bgr"
    GRAY = "gray"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How a picture becomes numbers: ``(pixel * scale - mean) / std``, pixels in 0..255.

    ``mean`` and ``std`` have one value, or one per channel in the model's channel order. Models with integer inputs get
    the pixels unchanged.
    """

    size: tuple[int, int] | None = None
    """(height, width); None takes what the model declares, or 224 x 224 where it declares nothing."""
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout | None = None
    """None finds the axis of 1 or 3 channels in the model's signature."""
    resize: Resize = Resize.CROP
    colour: Colour | None = None
    """None: gray for one channel, RGB for three."""

    def __post_init__(self) -> None:
        if 0 in self.std:
            raise UsageError("the image standard deviation cannot be 0", "use 1 to leave values as they are")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"an image size of {self.size} is not possible", "give height and width in pixels")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a file may claim to unpack to before it is refused as a zip bomb."""

    max_bytes: int = 16 << 30
    """Uncompressed bytes of all arrays of one file."""
    max_ratio: float = 1000.0
    """Uncompressed over compressed bytes, applied above ``ratio_floor``: DEFLATE itself reaches 1032 on zeros only."""
    ratio_floor: int = 1 << 30


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How a data source is read."""

    batch_size: int = 1
    """Samples per feed where the source holds samples; 1, because many models declare a free batch axis and fail on 2."""
    seed: int = 0
    image: ImageOptions = field(default_factory=ImageOptions)
    random_samples: int = 16
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"a batch size of {self.batch_size} is not possible", "give 1 or more")
        if self.random_samples < 1:
            raise UsageError(f"{self.random_samples} random samples are not possible", "give 1 or more")
