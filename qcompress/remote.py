"""Files at URLs of shared and object storage: listed, fetched, and written whole; the only door to fsspec."""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from qcompress.errors import RemoteError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2", "hf", "memory"}
"""Protocols under which a file appears whole or not at all; elsewhere it is written beside its place and moved there."""

SETS = "test_data_set_"
"""A folder that has folders of such names is fetched for them alone."""


def is_url(place: str | Path) -> bool:
    """Whether this is a URL and not a path."""
    return _URL.match(str(place)) is not None


def join(url: str, name: str) -> str:
    """The URL of ``name`` in the folder ``url``."""
    return f"{url.rstrip('/')}/{name}"


def beside(url: str, name: str) -> str:
    """The URL of ``name`` in the folder of ``url``."""
    return join(url.rpartition("/")[0], name)


def list_files(url: str, pattern: str = "**") -> dict[str, str]:
    """The files below a folder that the pattern fits: name within the folder -> URL, sorted; none where there is no folder.

    Raises:
        RemoteError: it cannot be listed.
    """
    with _told(url, "listed"):
        system, root = _opened(url)
        found = sorted(
            path
            for path, facts in system.glob(f"{glob.escape(root.rstrip('/'))}/{pattern}", detail=True).items()
            if facts["type"] == "file"
        )
        names = [PurePosixPath(path).relative_to(PurePosixPath(root)).as_posix() for path in found]
        return {name: join(url, name) for name in names}


def fetch(url: str, folder: Path) -> Path:
    """Copy the file or the folder at a URL into a local folder; gives its place there.

    Raises:
        RemoteError: there is nothing, or it cannot be read.
    """
    with _told(url, "read"):
        system, path = _opened(url)
        target = folder / PurePosixPath(path).name
        if system.isfile(path):
            folder.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(target))
            return target
        names = list_files(url)
        if not names:
            raise FileNotFoundError("there is nothing")
        for name in _wanted(names):
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(join(path, name), str(place))
        return target


def _wanted(names: Iterable[str]) -> list[str]:
    """Of the files of a folder of data those that are fetched."""
    names = list(names)
    return [name for name in names if name.startswith(SETS)] or names


def read_text(url: str) -> str | None:
    """The text of a file, None when there is none that can be read."""
    with suppress(RemoteError, UnicodeDecodeError), _told(url, "read"):
        system, path = _opened(url)
        return bytes(system.cat_file(path)).decode("utf-8")
    return None


def upload(file: Path, url: str) -> None:
    """Write a local file to a URL, whole or not at all.

    Raises:
        RemoteError: it cannot be written.
    """
    with _told(url, "written"):
        system, path = _opened(url)
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        part = path if url.partition("://")[0] in OBJECT_STORES else f"{path}.{uuid4().hex}.part"
        with file.open("rb") as source, system.open(part, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
        if part != path:
            system.mv(part, path)


def remove(url: str) -> None:
    """Remove a file if it is there.

    Raises:
        RemoteError: it is and cannot be removed.
    """
    with _told(url, "removed"):
        system, path = _opened(url)
        with suppress(FileNotFoundError):
            system.rm_file(path)


def size(url: str) -> int | None:
    """Bytes of a file, None when there is none."""
    with suppress(RemoteError), _told(url, "read"):
        system, path = _opened(url)
        return int(system.size(path) or 0) if system.isfile(path) else None
    return None


def fingerprint(url: str) -> str:
    """What changes when a file does, as the storage tells it: an entity tag or checksum, else size and time; empty for no file."""
    with suppress(RemoteError), _told(url, "read"):
        system, path = _opened(url)
        if system.isfile(path):
            return str(system.checksum(path))
    return ""


def data_fingerprint(url: str) -> str:
    """The fingerprint of a file, or of all files of a folder that ``fetch`` would copy."""
    with suppress(RemoteError):
        names = list_files(url)
        return fingerprint(url) or " ".join(f"{name} {fingerprint(names[name])}" for name in _wanted(names))
    return ""


def canonical(url: str) -> str:
    """The one name of a place, however its URL is spelled; of a file of this machine its path.

    Raises:
        RemoteError: the package for its protocol is missing.
    """
    with _told(url, "read"):
        system, path = _opened(url)
        protocol = system.protocol if isinstance(system.protocol, str) else system.protocol[0]
        return path if protocol == "file" else f"{protocol}://{re.sub('/+', '/', path)}"


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; nothing that an earlier look saw is believed."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise RemoteError(f"{url}: URLs need fsspec", "pip install 'qcompress[remote]'") from error
    try:
        system, path = url_to_fs(url)
    except ImportError as error:  # says which package the protocol needs
        raise RemoteError(f"{url}: {error}", "pip install the package that fsspec names") from error
    system.invalidate_cache()
    return system, str(path)


@contextmanager
def _told(url: str, verb: str) -> Iterator[None]:
    """Storage libraries fail in classes of their own; all become one line."""
    try:
        yield
    except RemoteError:
        raise
    except FileNotFoundError as error:
        raise RemoteError(f"{url}: there is no such file or folder", "check the URL") from error
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise RemoteError(
            f"{url}: cannot be {verb}: {type(error).__name__}: {told}", "check the URL, the credentials and the network"
        ) from error
