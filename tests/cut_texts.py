"""Networks of every kind as ONNX text, with the groups of channels that they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from text_models import Weights, draw

from qcompress.types import Array, Feed

Expected = dict[str, tuple[int, str, str, str]]

K3 = "kernel_shape = [3, 3], pads = [1, 1, 1, 1]"


@dataclass(frozen=True)
class Case:
    """A model, a feed, and its groups as ``slices_of`` writes them; ``reasons``: why weights stay."""

    name: str
    text: str
    weights: Weights
    feed: Feed
    groups: Expected = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def ints(*numbers: int) -> Array:
    """A constant shape."""
    return np.array(numbers, dtype=np.int64)


def image(*shape: int) -> Feed:
    """A feed for ``x``."""
    return {"x": draw("x", *shape)}


def text(signature: str, body: str, opset: int = 17) -> str:
    """A model of one graph."""
    return f'<ir_version: 8, opset_import: ["": {opset}]>\ng {signature} {{\n{body}\n}}'


def positive(name: str, *shape: int) -> Array:
    """Positive numbers, for a variance."""
    return np.abs(draw(name, *shape)) + np.float32(0.5)


IMAGE = "(float[n, 3, 8, 8] x) => (float[n, 5] y)"
LAYERS = "(float[n, s, 12] x) => (float[n, s, 12] y)"
TOKENS = {"x": draw("tokens", 2, 7, 12)}

CASES = [
    Case(
        "residual, depthwise, normalisation",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            a1 = Relu (a)
            d = Conv <{K3}, group = 8> (a1, wd, bd)
            n1 = InstanceNormalization (d, scale, shift)
            n2 = PRelu (n1, slope)
            e = Conv (n2, w2)
            r = Add (a1, e)
            r1 = Mul (factor, r)
            f = Conv <{K3}, strides = [2, 2]> (r1, w3, b3)
            g1 = Clip (f, low, high)
            p = GlobalAveragePool (g1)
            q = Flatten (p)
            y = Gemm <transB = 1> (q, w4, b4)
            """,
        ),
        {
            **{"w1": (8, 3, 3, 3), "b1": (8,), "wd": (8, 1, 3, 3), "bd": (8,), "scale": (8,), "shift": (8,)},
            **{"slope": (8, 1, 1), "w2": (8, 8, 1, 1), "factor": (8, 1, 1), "w3": (6, 8, 3, 3), "b3": (6,)},
            **{"low": np.float32(0.0), "high": np.float32(6.0), "w4": (5, 6), "b4": (5,)},
        },
        image(2, 3, 8, 8),
        {
            "w1": (8, "w1/0 w2/0", "w2/1 w3/1", "b1/0 wd/0 bd/0 scale/0 shift/0 slope/0 factor/0"),
            "w3": (6, "w3/0", "w4/1", "b3/0"),
        },
    ),
    Case(
        "grouped Conv: equal numbers of every group",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            c = Conv <{K3}, group = 2> (a, w2, b2)
            p = GlobalMaxPool (c)
            q = Reshape (p, shape)
            y = MatMul (q, w3)
            """,
        ),
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (6, 4, 3, 3), "b2": (6,), "w3": (6, 5), "shape": ints(0, -1)},
        image(1, 3, 8, 8),
        {"w1": (4, "w1/0*2", "w2/1", "b1/0*2"), "w2": (3, "w2/0*2", "w3/0*2", "b2/0*2")},
    ),
    Case(
        "grouped Conv: whole groups, and a depth multiplier",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            c = Conv <{K3}, group = 4> (a, w2, b2)
            m = Conv <{K3}, group = 4> (c, w3)
            p = GlobalMaxPool (m)
            q = Reshape (p, shape)
            y = MatMul (q, w4)
            """,
        ),
        {
            **{"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 2, 3, 3), "b2": (4,), "w3": (12, 1, 3, 3), "w4": (12, 5)},
            "shape": ints(-1, 12),
        },
        image(1, 3, 8, 8),
        {"w1": (4, "w1/0*2", "w4/0*3", "b1/0*2 w2/0 b2/0 w3/0*3")},
    ),
    Case(
        "squeeze and excite",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            s = GlobalAveragePool (a)
            s1 = Conv (s, ws1, bs1)
            s2 = Relu (s1)
            s3 = Conv (s2, ws2, bs2)
            s4 = HardSigmoid (s3)
            m = Mul (a, s4)
            c = Conv <strides = [8, 8], kernel_shape = [8, 8]> (m, w2, b2)
            y = Flatten (c)
            """,
        ),
        {
            **{"w1": (8, 3, 3, 3), "b1": (8,), "ws1": (4, 8, 1, 1), "bs1": (4,), "ws2": (8, 4, 1, 1), "bs2": (8,)},
            **{"w2": (5, 8, 8, 8), "b2": (5,)},
        },
        image(2, 3, 8, 8),
        {"w1": (8, "w1/0 ws2/0", "ws1/1 w2/1", "b1/0 bs2/0"), "ws1": (4, "ws1/0", "ws2/1", "bs1/0")},
    ),
    Case(
        "concatenation, as in a dense block",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            c = Conv <{K3}> (a, w2, b2)
            j = Concat <axis = 1> (a, c, x)
            n1 = Mul (j, scale)
            d = Conv <{K3}> (n1, w3, b3)
            k = Concat <axis = -3> (j, d)
            p = GlobalAveragePool (k)
            q = Flatten (p)
            y = Gemm (q, w4)
            """,
        ),
        {
            **{"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "b2": (6,), "scale": (1, 13, 1, 1)},
            **{"w3": (2, 13, 3, 3), "b3": (2,), "w4": (15, 5)},
        },
        image(1, 3, 8, 8),
        {
            "w1": (4, "w1/0", "w2/1 w3/1 w4/0", "b1/0 scale/1"),
            "w2": (6, "w2/0", "w3/1 w4/0", "b2/0 scale/1"),
            "w3": (2, "w3/0", "w4/0", "b3/0"),
        },
    ),
    Case(
        "concatenation added to what one Conv makes",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1)
            c = Conv <{K3}> (x, w2)
            j = Concat <axis = 1> (a, c)
            d = Conv <{K3}> (x, w3)
            r = Add (j, d)
            p = GlobalAveragePool (r)
            q = Flatten (p)
            y = Gemm (q, w4)
            """,
        ),
        {"w1": (4, 3, 3, 3), "w2": (2, 3, 3, 3), "w3": (6, 3, 3, 3), "w4": (6, 5)},
        image(1, 3, 8, 8),
        {"w1": (4, "w1/0 w3/0", "w4/0", ""), "w2": (2, "w2/0 w3/0", "w4/0", "")},
    ),
    Case(
        "Split without sizes, gate and value",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            l, r = Split <axis = 1> (a)
            s = Sigmoid (r)
            m = Mul (l, s)
            p = GlobalAveragePool (m)
            q = Flatten (p)
            y = Gemm (q, w2)
            """,
        ),
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 5)},
        image(1, 3, 8, 8),
        {"w1": (4, "w1/0*2", "w2/0", "b1/0*2")},
    ),
    Case(
        "Split with sizes or their number, parts of different use",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            l, r = Split <axis = 1> (a, sizes)
            c = Conv <{K3}> (r, w2)
            c1, c2 = Split <axis = -3, num_outputs = 2> (c)
            j = Concat <axis = 1> (l, c1, c2)
            p = ReduceMean <keepdims = 0> (j, axes)
            y = Gemm (p, w3)
            """,
            18,
        ),
        {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 5, 3, 3), "w3": (7, 5), "sizes": ints(3, 5), "axes": ints(2, 3)},
        image(1, 3, 8, 8),
        {
            "w1": (3, "w1/0", "w3/0", "b1/0"),
            "w1#2": (5, "w1/0", "w2/1", "b1/0"),
            "w2": (2, "w2/0", "w3/0", ""),
            "w2#2": (2, "w2/0", "w3/0", ""),
        },
    ),
    Case(
        "images flattened into a product",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}, strides = [4, 4]> (x, w1, b1)
            q = Reshape (a, shape)
            h = Gemm <transB = 1> (q, w2, b2)
            h1 = Relu (h)
            c = Conv <{K3}, strides = [2, 2]> (x, w3)
            c1 = Transpose <perm = [0, 2, 3, 1]> (c)
            c2 = Flatten <axis = 1> (c1)
            k = MatMul (c2, w4)
            m = Add (k, h1)
            y = MatMul (m, w5)
            """,
        ),
        {
            **{"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 24), "b2": (4,), "w3": (7, 3, 3, 3), "w4": (112, 4), "w5": (4, 5)},
            "shape": ints(-1, 24),
        },
        image(3, 3, 8, 8),
        {
            "w1": (6, "w1/0", "w2/1*4", "b1/0"),
            "w2": (4, "w2/0 w4/1", "w5/0", "b2/0"),
            "w3": (7, "w3/0", "w4/0*16", ""),
        },
    ),
    Case(
        "up and down: Pad, Resize, ConvTranspose, pooling, Slice",
        text(
            "(float[n, 3, 8, 8] x) => (float[n, 2, h, w] y)",
            f"""
            x1 = Pad <mode = "reflect"> (x, pads)
            a = Conv <{K3}> (x1, w1, b1)
            a1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            a2 = Pad (a1, pads)
            t = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (a2, wt, bt)
            u = Resize <mode = "nearest"> (t, , scales)
            v = Slice (u, starts, ends, axes)
            d = ConvTranspose <kernel_shape = [2, 2], group = 4> (v, wd)
            e = ConvTranspose <kernel_shape = [1, 1], group = 2> (v, we)
            e1 = Pad (e, pads2)
            f = Add (d, e1)
            y = Conv (f, w2)
            """,
        ),
        {
            **{"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "pads2": ints(0, 0, 1, 0, 0, 0, 0, 1), "w1": (6, 3, 3, 3), "b1": (6,)},
            **{"wt": (6, 4, 2, 2), "bt": (4,), "scales": np.array([1, 1, 2, 2], np.float32), "w2": (2, 4, 1, 1)},
            **{"starts": ints(1), "ends": ints(9), "axes": ints(2), "wd": (4, 1, 2, 2), "we": (4, 2, 1, 1)},
        },
        image(1, 3, 8, 8),
        {"w1": (6, "w1/0", "wt/0", "b1/0"), "wt": (2, "wt/1*2", "w2/1*2", "bt/0*2 wd/0*2 we/0*2")},
    ),
    Case(
        "a shared kernel",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1)
            b = Conv <{K3}> (a, w2)
            c = Conv <{K3}> (b, w2)
            d = Relu (c)
            p = GlobalAveragePool (d)
            q = Squeeze (p, axes)
            q1 = Unsqueeze (q, first)
            q2 = Squeeze (q1, first)
            y = MatMul (q2, w3)
            """,
        ),
        {"w1": (6, 3, 3, 3), "w2": (6, 6, 3, 3), "w3": (6, 5), "axes": ints(2, 3), "first": ints(1)},
        image(2, 3, 8, 8),
        {"w1": (6, "w1/0 w2/0", "w2/1 w3/0", "")},
    ),
    Case(
        "attention with shapes from constants and from tensors",
        text(
            LAYERS,
            """
            q = MatMul (x, wq)
            q1 = Add (bq, q)
            k = MatMul (x, wk)
            v = MatMul (x, wv)
            q2 = Reshape (q1, heads)
            qt = Transpose <perm = [0, 2, 1, 3]> (q2)
            k2 = Reshape (k, heads)
            kt = Transpose <perm = [0, 2, 3, 1]> (k2)
            n0 = Shape <start = 0, end = 2> (v)
            split = Concat <axis = 0> (n0, four, three)
            v2 = Reshape (v, split)
            vt = Transpose <perm = [0, 2, 1, 3]> (v2)
            s = MatMul (qt, kt)
            s1 = Div (s, root)
            s2 = Softmax <axis = -1> (s1)
            o = MatMul (s2, vt)
            o1 = Transpose <perm = [0, 2, 1, 3]> (o)
            n1 = Shape (x)
            o2 = Reshape (o1, n1)
            o3 = MatMul (o2, wo)
            r = Add (x, o3)
            z = LayerNormalization (r, g1, g2)
            h = MatMul (z, wu)
            h1 = Add (bu, h)
            t = Erf (h1)
            t1 = Add (t, one)
            m = Mul (h1, t1)
            d = MatMul (m, wd)
            gate = MatMul (z, wg)
            gs = Sigmoid (gate)
            silu = Mul (gate, gs)
            up = MatMul (z, wp)
            both = Mul (silu, up)
            d2 = MatMul (both, w2)
            r2 = Add (d, d2)
            y = Add (z, r2)
            """,
        ),
        {
            **dict.fromkeys(("wq", "wk", "wv", "wo"), (12, 12)),
            **{"bq": (12,), "root": np.float32(2.0), "one": np.float32(1.0), "g1": (12,), "g2": (12,)},
            **{"heads": ints(0, 0, 4, 3), "four": ints(4), "three": ints(3), "wu": (12, 20), "bu": (20,), "wd": (20, 12)},
            **{"wg": (12, 24), "wp": (12, 24), "w2": (24, 12)},
        },
        TOKENS,
        {"wu": (20, "wu/1", "wd/0", "bu/0"), "wg": (24, "wg/1 wp/1", "w2/0", "")},
        {"wq": "model input 'x'", "wo": "model input 'x'", "wd": "model output 'y'"},
    ),
    Case(
        "attention heads from one product, shapes shared by layers",
        text(
            LAYERS,
            """
            n0 = Shape <start = 0, end = 2> (x)
            parts = Concat <axis = 0> (n0, three, four, three)
            joined = Concat <axis = 0> (n0, twelve)
            a = MatMul (x, wa)
            a1 = Add (a, ba)
            a2 = Reshape (a1, parts)
            a3 = Transpose <perm = [2, 0, 3, 1, 4]> (a2)
            q = Gather <axis = 0> (a3, i0)
            k = Gather <axis = 0> (a3, i1)
            v = Gather <axis = 0> (a3, i2)
            kt = Transpose <perm = [0, 1, 3, 2]> (k)
            s = MatMul (q, kt)
            s1 = Softmax (s)
            o = MatMul (s1, v)
            o1 = Transpose <perm = [0, 2, 1, 3]> (o)
            o2 = Reshape (o1, joined)
            z = MatMul (o2, wo)
            b = MatMul (z, wb)
            b2 = Reshape (b, parts)
            b3 = Transpose <perm = [2, 0, 3, 1, 4]> (b2)
            c = Gather <axis = 0> (b3, i0)
            e = Transpose <perm = [0, 2, 1, 3]> (c)
            f = Reshape (e, joined)
            y = MatMul (f, wf)
            """,
        ),
        {
            **{
                "wa": (12, 36),
                "ba": (36,),
                "wo": (12, 12),
                "wb": (12, 36),
                "wf": (12, 12),
                "three": ints(3),
                "four": ints(4),
            },
            **{"twelve": ints(12), "i0": np.int64(0), "i1": np.int64(1), "i2": np.int64(2)},
        },
        TOKENS,
        {
            "wa": (4, "wa/1*9", "wo/0*3", "ba/0*9"),
            "wo": (12, "wo/1", "wb/0", ""),
            "wb": (4, "wb/1*9", "wf/0*3", ""),
        },
    ),
    Case(
        "grouped-query attention",
        text(
            LAYERS,
            """
            q = MatMul (x, wq)
            k = MatMul (x, wk)
            v = MatMul (x, wv)
            q1 = Reshape (q, six)
            qt = Transpose <perm = [0, 2, 1, 3]> (q1)
            k1 = Reshape (k, two)
            kt = Transpose <perm = [0, 2, 3, 1]> (k1)
            v1 = Reshape (v, two)
            vt = Transpose <perm = [0, 2, 1, 3]> (v1)
            ku = Unsqueeze (kt, second)
            n0 = Shape <start = 0, end = 1> (x)
            n1 = Shape <start = 1, end = 2> (x)
            kshape = Concat <axis = 0> (n0, number2, number3, number4, n1)
            ke = Expand (ku, kshape)
            kflat = Concat <axis = 0> (n0, number6, number4, n1)
            kr = Reshape (ke, kflat)
            vu = Unsqueeze (vt, second)
            ve = Expand (vu, vshape)
            vflat = Concat <axis = 0> (n0, number6, n1, number4)
            vr = Reshape (ve, vflat)
            s = MatMul (qt, kr)
            p = Softmax (s)
            o = MatMul (p, vr)
            o1 = Transpose <perm = [0, 2, 1, 3]> (o)
            o2 = Reshape (o1, flat)
            y = MatMul (o2, wo)
            """,
        ),
        {
            **{
                "wq": (12, 24),
                "wk": (12, 8),
                "wv": (12, 8),
                "wo": (24, 12),
                "six": ints(0, 0, 6, 4),
                "two": ints(0, 0, 2, 4),
            },
            **{"second": ints(2), "number2": ints(2), "number3": ints(3), "number4": ints(4), "number6": ints(6)},
            **{"vshape": ints(1, 1, 3, 1, 1), "flat": ints(0, 0, 24)},
        },
        TOKENS,
        {"wq": (2, "wq/1*12 wk/1*4 wv/1*4", "wo/0*12", "")},
    ),
    Case(
        "embeddings, weights on the left and transposed",
        text(
            "(int64[n, s] tokens) => (float[n, s, 5] y)",
            """
            e = Gather (table, tokens)
            b = Gather (types, tokens)
            e1 = Add (e, b)
            wt = Transpose <perm = [1, 0]> (w1)
            h = MatMul (e1, wt)
            h1 = Transpose <perm = [0, 2, 1]> (h)
            k = MatMul (w2, h1)
            k1 = Relu (k)
            l = MatMul (w3, k1)
            y = Transpose <perm = [0, 2, 1]> (l)
            """,
        ),
        {"table": (30, 8), "types": (30, 8), "w1": (6, 8), "w2": (7, 6), "w3": (5, 7)},
        {"tokens": np.arange(10, dtype=np.int64).reshape(2, 5)},
        {
            "table": (8, "table/1 types/1", "wt_value/0", ""),
            "wt_value": (6, "wt_value/1", "w2/1", ""),
            "w2": (7, "w2/0", "w3/1", ""),
        },
    ),
    Case(
        "layers of GRU whose states are made at once",
        text(
            "(float[s, 3, 6] x) => (float[s, 3, 5] y)",
            """
            n0 = Shape <start = 1, end = 2> (x)
            shape = Concat <axis = 0> (two, n0, seven)
            zeros = ConstantOfShape (shape)
            h1, h2 = Split <axis = 0> (zeros)
            f1 = Slice (zeros, i0, i1, i0)
            f2 = Slice (zeros, i1, i2, i0)
            a = GRU <hidden_size = 7> (x, w1, r1, , , f1)
            a1 = Squeeze (a, i1)
            b = GRU <hidden_size = 7> (a1, w2, r2, , , f2)
            b1 = Squeeze (b, i1)
            y = MatMul (b1, w3)
            """,
        ),
        {
            **{"two": ints(2), "seven": ints(7), "i0": ints(0), "i1": ints(1), "i2": ints(2), "w1": (1, 21, 6)},
            **{"r1": (1, 21, 7), "w2": (1, 21, 7), "r2": (1, 21, 7), "w3": (7, 5)},
        },
        {"x": draw("steps", 4, 3, 6)},
        {"w1": (7, "w1/1*3", "r1/2 w2/2", "r1/1*3"), "w2": (7, "w2/1*3", "r2/2 w3/0", "r2/1*3")},
    ),
    Case(
        "other operators that let channels through",
        text(
            IMAGE,
            f"""
            a = Conv <{K3}> (x, w1, b1)
            a1 = Relu (a)
            n1 = BatchNormalization (a1, scale, shift, mean, variance)
            n2 = MeanVarianceNormalization <axes = [0, 2, 3]> (n1)
            p = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (n2)
            q = LpPool <kernel_shape = [1, 1]> (p)
            l = LpNormalization <axis = -1> (q)
            t = Tile (l, repeats)
            c = CumSum (t, three)
            h = Softmax <axis = 2> (c)
            h1 = LogSoftmax <axis = 3> (h)
            h2 = Hardmax <axis = 2> (h1)
            i = ArgMax <axis = 2> (t)
            i1 = Cast <to = 1> (i)
            i2 = ArgMin <axis = 3> (t)
            i3 = Cast <to = 1> (i2)
            e = Sum (h2, i1, i3, c)
            small = Less (e, one)
            e1 = Where (small, e, n3)
            m, places = TopK <axis = 2> (e1, k)
            u = Resize <mode = "linear"> (m, , , sizes)
            g = GlobalLpPool (u)
            f = Flatten (g)
            y = Gemm (f, w2)
            """,
        ),
        {
            **{"w1": (6, 3, 3, 3), "b1": (6,), "scale": (6,), "shift": (6,), "mean": (6,), "variance": positive("v", 6)},
            **{"repeats": ints(1, 1, 2, 1), "three": np.int64(3), "one": np.float32(1.0), "n3": (1, 6, 1, 1), "k": ints(2)},
            **{"sizes": ints(1, 6, 4, 8), "w2": (6, 5)},
        },
        image(1, 3, 8, 8),
        {"w1": (6, "w1/0", "w2/0", "b1/0 scale/0 shift/0 mean/0 variance/0 n3/1")},
    ),
    Case(
        "LSTM and GRU, two directions, states of zeros",
        text(
            "(float[s, n, 6] x) => (float[s, n, 5] y, float[2, n, 4] last)",
            """
            n0 = Shape <start = 1, end = 2> (x)
            state = Concat <axis = 0> (n0, width)
            zeros = ConstantOfShape <value = float[1] {0.0}> (state)
            zero = Unsqueeze (zeros, first)
            two = Expand (zero, pair)
            a, ah, ac = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w1, r1, b1, , two, cells)
            a1 = Transpose <perm = [0, 2, 1, 3]> (a)
            a2 = Reshape (a1, flat)
            c = GRU <hidden_size = 7, linear_before_reset = 1> (a2, w2, r2, b2)
            c1 = Squeeze (c, axes)
            e, eh = RNN <hidden_size = 3> (c1, wr, rr, , , start)
            e1 = Squeeze (e, axes)
            y = MatMul (e1, w3)
            last = MatMul (ah, w4)
            """,
        ),
        {
            **{"width": ints(5), "first": ints(0), "pair": ints(2, 1, 1), "axes": ints(1), "flat": ints(0, 0, 10)},
            **{"w1": (2, 20, 6), "r1": (2, 20, 5), "b1": (2, 40), "w2": (1, 21, 10), "r2": (1, 21, 7), "b2": (1, 42)},
            **{"w3": (3, 5), "w4": (5, 4), "cells": (2, 3, 5)},
            **{"wr": (1, 3, 7), "rr": (1, 3, 3), "start": (1, 3, 3)},
        },
        {"x": draw("steps", 4, 3, 6)},
        {
            "w1": (5, "w1/1*4", "r1/2 w2/2*2 w4/0", "r1/1*4 b1/1*8 cells/2"),
            "w2": (7, "w2/1*3", "r2/2 wr/2", "r2/1*3 b2/1*6"),
            "wr": (3, "wr/1", "rr/2 w3/0", "rr/1 start/2"),
        },
    ),
]

STAYING = [
    Case(
        "outputs, softmax, normalisation, reductions",
        text(
            "(float[n, 12] x) => (float[n, 6] y, float[n, 6] p, float[n, 6] l, float[n] r, float[n, 4] t, float[n, 2] f)",
            """
            y = MatMul (x, w1)
            a = MatMul (x, w2)
            a1 = Softmax (a)
            p = MatMul (a1, v2)
            b = MatMul (x, w3)
            b1 = LayerNormalization (b, scale)
            l = MatMul (b1, v3)
            c = MatMul (x, w4)
            r = ReduceMax <axes = [1], keepdims = 0> (c)
            d = MatMul (x, w5)
            d1, i1 = TopK <axis = 1> (d, four)
            t = MatMul (d1, v5)
            e = MatMul (x, w6)
            e1 = CumSum (e, one)
            e2 = Relu (e1)
            f = MatMul (e2, v6)
            """,
        ),
        {
            **{f"w{place}": (12, 6) for place in (1, 2, 3, 4, 5, 6)},
            **{"v2": (6, 6), "v3": (6, 6), "v5": (4, 4), "v6": (6, 2), "scale": (6,), "four": ints(4), "one": np.int64(1)},
        },
        image(3, 12),
        {},
        {
            **{"w1": "model output 'y'", "w2": "Softmax", "w3": "LayerNormalization", "w4": "ReduceMax", "w5": "TopK"},
            "w6": "CumSum",
        },
    ),
    Case(
        "operators over channels",
        text(
            "(float[n, 3, 8, 8] x) => (float[n, 2, 8, 8] y)",
            """
            a1 = Conv (x, w1)
            b1 = LRN <size = 3> (a1)
            c1 = Conv (b1, v)
            a2 = Conv (x, w2)
            b2 = GroupNormalization <num_groups = 2> (a2, scale, shift)
            c2 = Conv (b2, v)
            a3 = Conv (x, w3)
            b3 = Pad (a3, pads)
            c3 = Conv (b3, v8)
            a4 = Conv (x, w4)
            b4 = Tile (a4, twice)
            c4 = Conv (b4, v8)
            a5 = Conv (x, w5)
            b5, i5 = MaxPool <kernel_shape = [1, 1]> (a5)
            j5 = Cast <to = 1> (i5)
            k5 = Add (b5, j5)
            c5 = Conv (k5, v)
            a6 = Conv (x, w6)
            b6 = Slice (a6, start, end, axis)
            c6 = Conv (b6, v3)
            a7 = Conv (x, w7)
            b7 = Gather <axis = 1> (a7, chosen)
            c7 = Conv (b7, v3)
            a8 = Conv (x, w8)
            b8 = Resize <mode = "nearest"> (a8, , factors)
            c8 = Conv (b8, v8)
            y = Sum (c1, c2, c3, c4, c5, c6, c7, c8)
            """,
            21,
        ),
        {
            **{f"w{place}": (4, 3, 1, 1) for place in range(1, 9)},
            **{"v": (2, 4, 1, 1), "v8": (2, 8, 1, 1), "v3": (2, 3, 1, 1), "scale": (4,), "shift": (4,)},
            **{"pads": ints(0, 2, 0, 0, 0, 2, 0, 0), "twice": ints(1, 2, 1, 1), "start": ints(1), "end": ints(4)},
            **{"axis": ints(1), "chosen": ints(0, 3, 2), "factors": np.array([1, 2, 1, 1], np.float32)},
        },
        image(1, 3, 8, 8),
        {},
        {
            **{"w1": "LRN", "w2": "GroupNormalization", "w3": "Pad", "w4": "Tile", "w5": "MaxPool", "w6": "Slice"},
            **{"w7": "Gather", "w8": "Resize"},
        },
    ),
    Case(
        "shapes that are computed, and sizes that are computed with",
        text(
            "(float[n, 3, 8, 8] x) => (float[n, 5] y, float[n, 6, m] z)",
            f"""
            a = Conv <{K3}> (x, w1)
            s = Shape (a)
            c = Gather <axis = 0> (s, index)
            c1 = Cast <to = 1> (c)
            a1 = Div (a, c1)
            p = GlobalAveragePool (a1)
            q = Flatten (p)
            y = MatMul (q, w2)
            b = Conv <{K3}> (x, w3)
            n0 = Shape <start = 0, end = 1> (b)
            n1 = Shape <start = 1, end = 2> (b)
            n2 = Mul (n1, two)
            shape = Concat <axis = 0> (n0, n2, rest)
            b1 = Reshape (b, shape)
            z = MatMul (w4, b1)
            """,
        ),
        {
            **{"w1": (4, 3, 3, 3), "w2": (4, 5), "w3": (4, 3, 3, 3), "w4": (6, 8), "index": np.int64(1), "two": ints(2)},
            "rest": ints(-1),
        },
        image(1, 3, 8, 8),
        {},
        {"w1": "Div 'a1' computes with its size", "w3": "Mul 'n2' computes with its size"},
    ),
    Case(
        "bodies, sharing that does not fit, weights that nodes compute, channels nobody reads",
        text(
            "(float[n, 4] x, bool b) => (float[n, 4] y, float[n, 3] z)",
            """
            a = MatMul (x, w1)
            i = If (b) <
              then_branch = then () => (float[n, 4] t) { t = Relu (a) },
              else_branch = else () => (float[n, 4] e) { e = Neg (a) }
            >
            a1 = MatMul (i, w2)
            c = MatMul (a1, w3)
            ct = Transpose (c)
            d = MatMul (w3, ct)
            dt = Transpose (d)
            k = Mul (w4, x)
            h = MatMul (dt, w5)
            y = Add (h, k)
            m = MatMul (x, w6)
            unread = Relu (m)
            z = MatMul (x, w7)
            """,
        ),
        {
            **{"w1": (4, 4), "w2": (4, 4), "w3": (4, 4), "w4": (4,), "w5": (4, 4), "w6": (4, 7), "w7": (4, 3)},
        },
        {"x": draw("x", 3, 4), "b": np.array(True)},
        {},
        {"w1": "it has no rule", "w3": "sums over them in another"},
    ),
]
