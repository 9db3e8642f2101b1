"""What is kept of every feed between two segments: in memory as far as that goes, in files beyond."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from pathlib import Path

import numpy as np

from qcompress.types import Array, Feed


class Shelf:
    """Arrays by feed and name.

    ``memory_bytes``: for all arrays together; those that do not fit when they are put are written to ``folder``. Texts stay
    in memory.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._free = memory_bytes
        self._feeds: list[dict[str, Array | Path]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._feeds)

    def __contains__(self, name: object) -> bool:
        """Whether the feeds have an array of that name at the moment."""
        return bool(self._feeds) and name in self._feeds[0]

    def add(self, feed: Feed) -> None:
        """Keep the arrays of one more feed."""
        self._feeds.append({})
        for name, array in feed.items():
            self.put(len(self._feeds) - 1, name, array)

    def put(self, feed: int, name: str, array: Array) -> None:
        """Keep an array under a name that the feed does not have yet."""
        if array.dtype == object or array.nbytes <= self._free:
            self._free -= array.nbytes
            self._feeds[feed][name] = array
            return
        path = self._folder / f"{next(self._numbers)}.npy"
        np.save(path, array, allow_pickle=False)
        self._feeds[feed][name] = path

    def take(self, feed: int, names: Collection[str]) -> dict[str, Array]:
        """The named arrays of a feed; they stay on the shelf."""
        found = {name: self._feeds[feed][name] for name in names}
        return {name: np.load(item) if isinstance(item, Path) else item for name, item in found.items()}

    def keep_only(self, feed: int, names: Collection[str]) -> None:
        """Forget everything else of a feed."""
        for name in [name for name in self._feeds[feed] if name not in names]:
            item = self._feeds[feed].pop(name)
            if isinstance(item, Path):
                item.unlink()
            else:
                self._free += item.nbytes
