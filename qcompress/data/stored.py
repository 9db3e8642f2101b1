"""Arrays in .npy and .npz files, read row by row so that memory stays flat, and never unpickled."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from qcompress.data.options import Limits
from qcompress.errors import DataError
from qcompress.types import Array

# What mutated files were seen to raise inside zipfile, the decompressors and numpy's header parser.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, EOFError, LookupError, MemoryError,
    NotImplementedError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
_CHUNK = 1 << 20
Opener = Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file, known by its header; ``offset`` is where the numbers start in the stream that ``open`` gives."""

    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    open: Opener

    def rows(self, wanted: Array | None = None) -> Iterator[Array]:
        """Yield ``array[i]`` for the ascending indices ``wanted`` (all for None), reading the file once.

        Arrays in Fortran order hold no row in one piece, so they are loaded whole.

        Raises:
            DataError: the file is damaged.
        """
        indices = range(self.shape[0]) if wanted is None else wanted.tolist()
        if self.fortran:
            array = self.load()
            yield from (np.ascontiguousarray(array[index]) for index in indices)
            return
        row_shape = self.shape[1:]
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        done = 0
        with reading(self.where), self.open() as stream:
            _skip(stream, self.offset)
            for index in indices:
                _skip(stream, (index - done) * row_bytes)
                row = _read(stream, row_shape, self.dtype)
                done = index + 1
                yield row

    def load(self) -> Array:
        """The whole array.

        Raises:
            DataError: the file is damaged.
        """
        with reading(self.where), self.open() as stream:
            _skip(stream, self.offset)
            if self.fortran:
                return np.ascontiguousarray(_read(stream, self.shape[::-1], self.dtype).T)
            return _read(stream, self.shape, self.dtype)


def npz_arrays(path: Path, limits: Limits) -> dict[str, StoredArray]:
    """The arrays of an .npz by name, after checking what they claim to unpack to.

    Raises:
        DataError: not a readable .npz, pickled objects in it, or sizes of a zip bomb.
    """
    with reading(path.name), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        _refuse_bomb(path, infos, limits)
        arrays = {}
        for info in infos:
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as stream:
                arrays[name] = _header(stream, info.file_size, f"{path.name}: {name}", _member_opener(path, info.filename))
    if not arrays:
        raise DataError(f"{path.name} holds no arrays", "save one array per model input with numpy.savez")
    return arrays


def npy_array(path: Path, limits: Limits) -> StoredArray:
    """The array of an .npy file.

    Raises:
        DataError: not a readable .npy, pickled objects in it, or larger than the limit.
    """
    with reading(path.name), path.open("rb") as stream:
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise DataError(f"{path.name} holds {size / 1e9:.1f} GB", "give a smaller data set")
        return _header(stream, size, path.name, lambda: path.open("rb"))


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the readers raise into one kind of error."""
    try:
        yield
    except _BROKEN as error:
        lines = str(error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise DataError(f"{where} cannot be read: {reason}", "the file may be damaged: write it again") from error


def _refuse_bomb(path: Path, infos: list[zipfile.ZipInfo], limits: Limits) -> None:
    total = sum(info.file_size for info in infos)
    packed = max(sum(info.compress_size for info in infos), 1)
    if total > limits.max_bytes:
        raise DataError(
            f"{path.name} says it unpacks to {total / 1e9:.1f} GB, more than the limit of {limits.max_bytes / 1e9:.1f} GB",
            "give fewer samples or a directory of .npz files",
        )
    if total > limits.ratio_floor and total / packed > limits.max_ratio:
        raise DataError(
            f"{path.name} says it unpacks to {total / packed:.0f} times its size ({total / 1e9:.1f} GB)",
            "this looks like a zip bomb; real data should be saved with numpy.savez",
        )


def _member_opener(path: Path, member: str) -> Opener:
    def opener() -> IO[bytes]:
        # The member's reader keeps the file open for as long as it is used itself.
        with zipfile.ZipFile(path) as archive:
            return archive.open(member)

    return opener


def _header(stream: IO[bytes], size: int, where: str, opener: Opener) -> StoredArray:
    start = stream.read(len(np.lib.format.MAGIC_PREFIX) + 2)
    if not start.startswith(np.lib.format.MAGIC_PREFIX) or len(start) < len(np.lib.format.MAGIC_PREFIX) + 2:
        raise DataError(f"{where} is not a numpy array", "save plain arrays with numpy.save or numpy.savez")
    version = tuple(start[-2:])
    parsers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in parsers:
        raise DataError(f"{where} has numpy format version {version[0]}.{version[1]}", "save plain arrays of numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of headers written by Python 2, which are fine
        shape, fortran, dtype = parsers[version](stream)
    if dtype.hasobject:
        raise DataError(
            f"{where} holds pickled Python objects, which are never loaded because they can run code",
            "save arrays of one numeric type, without dtype=object",
        )
    offset = stream.tell()
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size - offset or min(shape, default=1) < 0 or dtype.itemsize == 0:
        raise DataError(
            f"{where} is damaged: its header says {claimed} bytes of numbers, the file holds {size - offset}",
            "write it again",
        )
    return StoredArray(where, dtype, shape, fortran, offset, opener)


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        got = len(stream.read(min(count, _CHUNK)))
        if got == 0:
            raise EOFError("it ends too early")
        count -= got


def _read(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    array = np.empty(shape, dtype)
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        piece = stream.read(min(len(view) - done, _CHUNK))
        if not piece:
            raise EOFError("it ends too early")
        view[done : done + len(piece)] = piece
        done += len(piece)
    return array
