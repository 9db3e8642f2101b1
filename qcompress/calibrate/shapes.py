"""The shape of every tensor at the calibration data's own sizes, from one run."""

from __future__ import annotations

import numpy as np

from qcompress.errors import ModelError
from qcompress.graph import Model, extend
from qcompress.runtime import SessionSettings, open_session
from qcompress.types import Feed, NodeSpec

_PREFIX = "qcompress/shape/"

NODES_IN_PRIORITY = 15_000
"""Nodes up to which observers run as soon as they can: the runtime takes quadratic time to find that order (21,600 nodes: 45
seconds instead of 3, 3,600 nodes: no difference). Graphs that long are language models, whose activations are small."""


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
            SessionSettings(early_release=len(model.graph) + len(nodes) <= NODES_IN_PRIORITY),
        )
    except ModelError:  # sequences and maps have no shape; without shapes planning assumes that integers pay
        open_session(model.path).run(feed)
        return fed
    shapes = {name.removeprefix(_PREFIX): tuple(int(dim) for dim in shape) for name, shape in session.run(feed).items()}
    return shapes | fed
