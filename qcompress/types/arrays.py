"""Words for arrays and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Feed = Mapping[str, Array]

ROOT = Path("/").resolve()
"""Where locations of weights start in models serialized for the runtime in this process: it refuses absolute ones."""
