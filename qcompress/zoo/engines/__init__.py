"""How jobs can be run: one file each, and one line here."""

from collections.abc import Callable, Mapping

from qcompress.zoo.engines.dask import DaskEngine
from qcompress.zoo.engines.interface import Engine, EngineSettings, Listener
from qcompress.zoo.engines.local import LocalEngine
from qcompress.zoo.engines.ray import RayEngine

__all__ = ["ENGINES", "Engine", "EngineSettings", "Listener"]

ENGINES: Mapping[str, Callable[[EngineSettings], Engine]] = {
    "local": LocalEngine,
    "dask": DaskEngine,
    "ray": RayEngine,
}
"""Engines by name; each is made from the settings."""
