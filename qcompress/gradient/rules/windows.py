"""Where the windows of convolutions and pools lie, and sums over windows written with ordinary operators.

A window of ``kernel`` elements, ``dilations`` apart, moves in ``strides`` over an input that is padded by ``begins`` and
``ends``; its output p covers the padded input from p * stride to p * stride + dilation * (kernel - 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from qcompress.gradient.step import Step
from qcompress.gradient.tape import NoGradientError, Tensor, fixed


@dataclass(frozen=True, slots=True)
class Windows:
    """One number for each spatial axis everywhere; ``begins`` None: SAME padding of lengths that only a run knows."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    @property
    def axes(self) -> list[int]:
        """The spatial axes of (batch, channels, *spatial)."""
        return list(range(2, 2 + self.rank))

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the last element of a window lies from the first."""
        return tuple(dilation * (size - 1) for dilation, size in zip(self.dilations, self.kernel, strict=True))

    @property
    def attributes(self) -> dict[str, tuple[int, ...]]:
        """As attributes of Conv."""
        return {"strides": self.strides, "dilations": self.dilations, "pads": (*self.begins, *self.ends)}

    @property
    def is_pointwise(self) -> bool:
        """Whether every output covers one element of an input that is not padded."""
        return max(self.kernel) == 1 and not any(self.begins) and not any(self.ends)

    def padded(self, tensor: Tensor) -> Tensor:
        """The input with its padding."""
        if not any(self.begins) and not any(self.ends):
            return tensor
        pads = tensor.tape.ints([0, 0, *self.begins, 0, 0, *self.ends])
        whole = tensor.tape.node("Pad", (tensor, pads))
        added = (0, 0, *(begin + end for begin, end in zip(self.begins, self.ends, strict=True)))
        known = None if tensor.dims is None else zip(tensor.dims, added, strict=True)
        dims = None if known is None else tuple(dim + more if isinstance(dim, int) else None for dim, more in known)
        return Tensor(tensor.tape, whole.value, whole.dtype, dims)

    def taps(self) -> Iterator[tuple[int, ...]]:
        """The offset of every element of a window from its first, the last axis fastest."""
        ranges = (range(size) for size in self.kernel)
        for place in product(*ranges):
            yield tuple(index * dilation for index, dilation in zip(place, self.dilations, strict=True))

    def seen(self, padded: Tensor, offset: Sequence[int], like: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        """What one element of all windows sees: of the padded input, in the shape of the output ``like``.

        ``axes``: spatial axes, from 0, along which it is taken; all of them by default. ``offset``: along those.
        """
        tape = padded.tape
        spatial = list(range(self.rank)) if axes is None else list(axes)
        places = [axis - self.rank for axis in spatial]
        strides = [self.strides[axis] for axis in spatial]
        count = tape.extents(like, places)
        lengths = None if like.dims is None else fixed(tuple(like.dims[place] for place in places))
        if lengths is not None:
            span = [start + stride * (n - 1) + 1 for start, stride, n in zip(offset, strides, lengths, strict=True)]
            return padded.slice(tape.ints(offset), tape.ints(span), places, strides)
        steps = tape.ints(strides)
        end = tape.node(
            "Add",
            (tape.node("Mul", (count, steps)), tape.ints([1 + at - by for at, by in zip(offset, strides, strict=True)])),
        )
        return padded.slice(tape.ints(offset), end, places, strides)


def spread(gradient: Tensor, weight: Tensor, windows: Windows, group: int, like: Tensor) -> Tensor:
    """The transpose of a convolution: each output's gradient times the weights of its window, summed where windows overlap.

    Args:
        gradient: (batch, out channels, *spatial) of the output.
        weight: (out channels, in channels / group, *kernel).
        windows: of the convolution.
        group: of the convolution.
        like: the input, (batch, in channels, *spatial); the result has its shape.
    """
    lengths = None if like.dims is None else fixed(like.dims[2:])
    attributes: dict[str, int | tuple[int, ...]] = {
        "strides": windows.strides,
        "dilations": windows.dilations,
        "group": group,
        "kernel_shape": windows.kernel,
    }
    if max(windows.strides) == 1:
        return gradient.tape.node("ConvTranspose", (gradient, weight), {**attributes, "pads": windows.attributes["pads"]})
    if lengths is not None:
        zipped = zip(lengths, windows.begins, windows.ends, windows.reach, windows.strides, strict=True)
        rest = tuple((length + begin + end - reach - 1) % stride for length, begin, end, reach, stride in zipped)
        given = {**attributes, "pads": windows.attributes["pads"], "output_padding": rest}
        return gradient.tape.node("ConvTranspose", (gradient, weight), given)
    longest = tuple(stride - 1 for stride in windows.strides)  # at most so much of the input is behind the last window
    whole = gradient.tape.node("ConvTranspose", (gradient, weight), {**attributes, "output_padding": longest})
    return cropped(whole, windows.begins, like)


def cropped(tensor: Tensor, begins: Sequence[int], like: Tensor) -> Tensor:
    """From ``begins`` on as much along the spatial axes as ``like`` is long."""
    tape, axes = tensor.tape, list(range(2, 2 + len(begins)))
    start = tape.ints(begins)
    end = tape.node("Add", (tape.extents(like, axes), start))
    return tensor.slice(start, end, axes, [1] * len(axes))


def windows_of(step: Step, kernel: tuple[int, ...], data: Tensor) -> Windows:
    """The windows of a Conv or pool over ``data``.

    Raises:
        NoGradientError: the padding depends on lengths that only a run knows.
    """
    rank = len(kernel)
    strides = step.integers("strides") or (1,) * rank
    dilations = step.integers("dilations") or (1,) * rank
    pads = step.integers("pads") or (0,) * (2 * rank)
    windows = Windows(kernel, strides, dilations, pads[:rank], pads[rank:])
    mode = step.text("auto_pad", "NOTSET")
    if mode == "VALID":
        return replace(windows, begins=(0,) * rank, ends=(0,) * rank)
    if not mode.startswith("SAME"):
        return windows
    dims = (None,) * rank if data.dims is None else data.dims[2:]
    totals = [_same(length, *axis) for length, axis in zip(dims, zip(windows.reach, strides, strict=True), strict=True)]
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return replace(windows, begins=small, ends=large) if mode == "SAME_UPPER" else replace(windows, begins=large, ends=small)


def _same(length: int | str | None, reach: int, stride: int) -> int:
    """How much SAME padding adds to an axis: as many outputs as the length divided by the stride, rounded up."""
    if stride == 1:
        return reach
    if not isinstance(length, int):
        raise NoGradientError("has SAME padding with a stride, and a length that is known at run time only")
    return max(((length - 1) // stride) * stride + reach + 1 - length, 0)
