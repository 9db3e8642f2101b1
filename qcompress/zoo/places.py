"""Where models, data and results lie: everything that touches them by name on behalf of a batch."""

from __future__ import annotations

import errno
import filecmp
import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from qcompress import remote
from qcompress.errors import OutputError, RemoteError

BLOCK = 1 << 22


def place_in(folder: Path | str, name: str) -> str:
    """Where ``name`` is in a folder; paths are absolute."""
    return remote.join(str(folder), name) if remote.is_url(folder) else str((Path(folder) / name).absolute())


def beside(target: str, name: str) -> str:
    """Where a file of that name beside the target is."""
    return remote.beside(target, name) if remote.is_url(target) else str(Path(target).with_name(name))


def canonical(place: Path | str) -> str:
    """The one name of a place, however it is spelled: links on the way there are followed, one that lies there is not, since a
    result replaces it.

    Raises:
        RemoteError: the package for the protocol of a URL is missing.
    """
    if remote.is_url(place):
        place = remote.canonical(str(place))
        if remote.is_url(place):
            return place
    folder, name = os.path.split(Path(place).absolute())
    return str(Path(_resolved(folder)) / name)


@functools.cache
def _resolved(folder: str) -> str:
    return str(Path(folder).resolve())


def spellings(place: str) -> set[str]:
    """The canonical names of a place that is read, and of all that links lead to from there; a URL out of reach has none."""
    found: set[str] = set()
    while True:
        try:
            name = canonical(place)
        except RemoteError:  # the job says what is missing
            return found
        if name in found:
            return found
        found.add(name)
        if remote.is_url(name) or not Path(name).is_symlink():
            return found
        place = str(Path(name).parent / Path(name).readlink())


def digest_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def publish(files: Mapping[str, Path], target: str, obsolete: Iterable[str]) -> dict[str, str]:
    """Move finished files beside ``target``, the target itself last; remove what is obsolete; give the digest of each.

    A file whose content is there already is left alone, and its time with it. At no time does the target stand beside files
    of another one: it goes first when they differ.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
        RemoteError: the URL cannot be written.
    """
    if remote.is_url(target):
        return _upload(files, target, obsolete)
    place = Path(target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        digests = {name: digest_file(path) for name, path in sorted(files.items())}
        changed = [name for name, path in files.items() if not _same(path, place.with_name(name))]
        if any(name.startswith(place.name) for name in changed):
            place.unlink(missing_ok=True)
        for name in obsolete:
            if name not in files:
                place.with_name(name).unlink(missing_ok=True)
        for name in sorted(changed, key=lambda name: name == place.name):
            _move(files[name], place.with_name(name))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}", "check the folder and the space left") from error
    return digests


def present(target: str, files: Mapping[str, str]) -> bool:
    """Whether the files lie beside the target with these digests; at URLs, whether they are there."""
    if remote.is_url(target):
        return all(remote.size(beside(target, name)) is not None for name in files)
    with suppress(OSError):
        return all(digest_file(Path(target).with_name(name)) == digest for name, digest in files.items())
    return False


def read_text(place: Path | str) -> str | None:
    """The text of a file, None when there is none that can be read."""
    if remote.is_url(place):
        return remote.read_text(str(place))
    with suppress(OSError, UnicodeDecodeError):
        return Path(place).read_text(encoding="utf-8")
    return None


def remove(place: Path | str) -> None:
    """Remove a file if it is there.

    Raises:
        OutputError: it is and cannot be removed.
        RemoteError: the same at a URL.
    """
    if remote.is_url(place):
        remote.remove(str(place))
        return
    try:
        Path(place).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{place}: cannot be removed: {error.strerror}", "check the folder") from error


def write_text(place: Path | str, text: str, scratch: Path) -> None:
    """Write a text file whole or not at all, also when the machine stops; ``scratch`` is a folder of the same disk.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
        RemoteError: the URL cannot be written.
    """
    path = scratch / str(place).rpartition("/")[2] if remote.is_url(place) else Path(place)
    part = scratch / f"{path.name}.{os.getpid()}.part"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text if text.endswith("\n") else f"{text}\n")
            stream.flush()
            os.fsync(stream.fileno())
        _move(part, path)
        if remote.is_url(place):
            remote.upload(path, str(place))
            path.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}", "check the folder and the space left") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _move(file: Path, place: Path) -> None:
    """Put a finished file in its place, whole or not at all; the place may be on another disk."""
    try:
        file.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = place.with_name(f".{place.name}.part")
        try:
            shutil.copyfile(file, part)
            part.replace(place)
        finally:
            part.unlink(missing_ok=True)
        file.unlink()


def _upload(files: Mapping[str, Path], target: str, obsolete: Iterable[str]) -> dict[str, str]:
    """``publish`` at a URL: each file appears whole, the target last."""
    digests = {name: digest_file(path) for name, path in sorted(files.items())}
    last = target.rpartition("/")[2]
    for name in {last, *obsolete}:
        remote.remove(beside(target, name))
    for name in sorted(files, key=lambda name: (name == last, name)):
        remote.upload(files[name], beside(target, name))
    return digests


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
