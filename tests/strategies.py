"""What properties of weights are tested on: weights in every layout, and correlations of their inputs."""

import numpy as np
from hypothesis import strategies as st

from qcompress.quantize import Gram, Layout


@st.composite
def weights(draw, longest):
    """A weight with its layout and groups, no axis longer than ``longest`` a group."""
    layout = draw(st.sampled_from(list(Layout)))
    convolution = layout in {Layout.CONV, Layout.CONV_TRANSPOSE}
    rank = draw(st.integers(3, 4)) if convolution else draw(st.integers(1, 3))
    shape = [draw(st.integers(1, longest)) for _ in range(rank)]
    groups = draw(st.integers(1, 3)) if convolution else 1
    shape[0] *= groups
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = random.standard_t(4, shape) * 10.0 ** draw(st.integers(-12, 12))
    values[random.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0.0
    return values.astype(np.float32), layout, groups


@st.composite
def grams(draw, inputs, groups):
    """Correlations of few or many rows, with inputs that are never seen, or none that are."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    rows = draw(st.sampled_from([1, 2, 5, 40]))
    size = 10.0 ** draw(st.integers(-6, 6))
    mixing = random.standard_normal((groups, inputs, inputs))
    seen = random.random(inputs) < draw(st.sampled_from([0.0, 0.5, 1.0, 1.0]))

    def matrix(count):
        x = size * random.standard_normal((groups, count, inputs)) @ mixing * seen
        return x.swapaxes(1, 2) @ x / count

    held = matrix(rows) if draw(st.booleans()) else None
    return Gram(matrix(rows), held, rows, draw(st.sampled_from([0, rows])) if held is not None else 0)
