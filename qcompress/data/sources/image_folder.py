"""A folder of images; sub-folders, in alphabetical order, are the classes 0, 1, 2 and so on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcompress.data.batch import Source, Unit, batch_size
from qcompress.data.check import shape_text
from qcompress.data.options import Colour, ImageOptions, Layout, Resize
from qcompress.data.request import Request
from qcompress.errors import DataError
from qcompress.types import Array, TensorSignature

FORM = "folder of images"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_FREE_SIZE = (224, 224)  # what most classifiers were trained on


@dataclass(frozen=True, slots=True)
class _Target:
    """What the model wants of an image: type, size and the order of axes and colours."""

    name: str
    dtype: np.dtype[Any]
    layout: Layout
    size: tuple[int, int]
    colour: Colour
    options: ImageOptions


def matches(spec: str) -> bool:
    """Whether this is the kind of source that ``spec`` names."""
    path = Path(spec)
    return path.is_dir() and any(_is_image(item) for pattern in ("*", "*/*") for item in path.glob(pattern))


def files(spec: str) -> list[Path]:
    """What reading ``spec`` reads.

    Raises:
        DataError: there are images both in sub-folders and beside them.
    """
    return [file for file, _ in _files(Path(spec))]


def open_source(request: Request) -> Source:
    """Decode, resize and normalise one image at a time.

    Raises:
        DataError: pillow is not installed, the model's input is not an image, or a file cannot be decoded.
    """
    item = request.only_input("images feed one input", "prepare the feeds as .npz files")
    target = _target(item, request.options.image)
    _pillow()
    folder = Path(request.spec)
    files = _files(folder)
    labelled = files[0][1] is not None

    def read(wanted: Array | None) -> Iterator[Unit]:
        for index in range(len(files)) if wanted is None else wanted.tolist():
            path, label = files[index]
            labels = np.array([label], np.int64) if labelled else None
            yield Unit(str(path.relative_to(folder)), {item.name: _load(path, target)}, labels)

    return Source(read, np.ones(len(files), np.int64), *batch_size((item,), request.options.batch_size))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _files(folder: Path) -> list[tuple[Path, int | None]]:
    """Images with their class; without classes when they lie in the folder itself."""
    flat = sorted(path for path in folder.iterdir() if _is_image(path))
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and any(map(_is_image, path.iterdir())))
    if flat and classes:
        raise DataError(
            f"{folder} has images beside sub-folders of images",
            "put every image in the sub-folder of its class, or none",
        )
    if flat:
        return [(path, None) for path in flat]
    return [(path, label) for label, sub in enumerate(classes) for path in sorted(filter(_is_image, sub.iterdir()))]


def _target(item: TensorSignature, options: ImageOptions) -> _Target:
    """Where height, width and channels are in the model's input, and how large they are."""
    if item.shape is None or len(item.shape) != 4:
        raise DataError(
            f"input {item.name!r} of shape {shape_text(item)} is not an image",
            "images need an input of 4 axes; prepare the feeds as .npz files",
        )
    layout = options.layout
    if layout is None:
        channel_axis = next((axis for axis in (1, 3) if item.shape[axis] in (1, 3)), None)
        if channel_axis is None:
            raise DataError(
                f"input {item.name!r} of shape {shape_text(item)} does not say where the colours are",
                "give the image layout, nchw or nhwc",
            )
        layout = Layout.NCHW if channel_axis == 1 else Layout.NHWC
    channels, height, width = (item.shape[axis] for axis in ((1, 2, 3) if layout is Layout.NCHW else (3, 1, 2)))
    free = options.size or _FREE_SIZE
    size = (height if isinstance(height, int) else free[0], width if isinstance(width, int) else free[1])
    if options.size is not None and size != options.size:
        raise DataError(f"the model takes images of {size[0]} x {size[1]}, not {free[0]} x {free[1]}", "leave the size out")
    colour = options.colour or (Colour.GRAY if channels == 1 else Colour.RGB)
    depth = 1 if colour is Colour.GRAY else 3
    if isinstance(channels, int) and channels != depth:
        raise DataError(
            f"input {item.name!r} has {channels} channels, but {colour} images have {depth}", "change the colour"
        )
    for values in (options.mean, options.std):
        if len(values) not in (1, depth):
            raise DataError(f"{len(values)} means or deviations do not fit {depth} channels", "give one, or one per channel")
    if item.dtype not in ("float16", "float32", "float64", "uint8", "int32", "int64"):
        raise DataError(f"input {item.name!r} of type {item.dtype} cannot hold an image", "prepare the feeds as .npz files")
    return _Target(item.name, np.dtype(item.dtype), layout, size, colour, options)


def _pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise DataError("reading images needs pillow", "pip install 'qcompress[images]'") from error
    return PIL


def _load(path: Path, target: _Target) -> Array:
    """One image as a batch of one: (1, channels, height, width) or (1, height, width, channels)."""
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.Image.DecompressionBombWarning)
            with pillow.Image.open(path) as file:
                image = pillow.ImageOps.exif_transpose(file).convert("L" if target.colour is Colour.GRAY else "RGB")
    except (OSError, ValueError, SyntaxError, EOFError, pillow.Image.DecompressionBombError, Warning) as error:
        raise DataError(
            f"{path.parent.name}/{path.name} cannot be decoded: {error}", "remove or repair this file"
        ) from error
    height, width = target.size
    if target.options.resize is Resize.CROP:
        image = pillow.ImageOps.fit(image, (width, height), pillow.Image.Resampling.BILINEAR)
    else:
        image = image.resize((width, height), pillow.Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(height, width, -1)  # (height, width, channels)
    if target.colour is Colour.BGR:
        pixels = pixels[:, :, ::-1]
    if target.dtype.kind == "f":
        options = target.options
        pixels = (pixels * np.float64(options.scale) - np.array(options.mean)) / np.array(options.std)
    if target.layout is Layout.NCHW:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis], target.dtype)
