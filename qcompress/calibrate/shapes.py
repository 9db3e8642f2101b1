"""The shape of every tensor at the calibration data's own sizes, from one run."""

from __future__ import annotations

import numpy as np

from qcompress.errors import ModelError
from qcompress.graph import Model, extend
from qcompress.runtime import Optimization, SessionSettings, open_session
from qcompress.types import Feed, NodeSpec

_PREFIX = "qcompress/shape/"

LONG_GRAPH = 15_000
"""Nodes, observers included, above which the runtime takes the graph as it is: optimizing it, and finding an order in which
observers run early, take more than linear time (21,600 nodes: 45 seconds to load instead of 3). Graphs that long are language
models, whose activations are small."""


def observing(nodes: int, threads: int = 0) -> SessionSettings:
    """How to open a model with observers, of so many nodes in all."""
    if nodes > LONG_GRAPH:
        return SessionSettings(threads=threads, optimization=Optimization.DISABLED)
    return SessionSettings(threads=threads, early_release=True)


def observe_shapes(model: Model, feed: Feed) -> dict[str, tuple[int, ...]]:
    """Run one feed with a Shape node behind every tensor of the main graph; tensor -> shape.

    Raises:
        ModelError: the model does not run on the feed.
    """
    tensors = [output.name for node in model.graph for output in node.outputs if output.name]
    nodes = [NodeSpec("Shape", (name,), (_PREFIX + name,)) for name in tensors]
    fed = {name: tuple(np.shape(array)) for name, array in feed.items()}
    try:
        session = open_session(
            extend(model, nodes, {}, [_PREFIX + name for name in tensors]),
            observing(len(model.graph) + len(nodes)),
        )
    except ModelError:  # sequences and maps have no shape; without shapes planning assumes that integers pay
        open_session(model.path).run(feed)
        return fed
    shapes = {name.removeprefix(_PREFIX): tuple(int(dim) for dim in shape) for name, shape in session.run(feed).items()}
    return shapes | fed
