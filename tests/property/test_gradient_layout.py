"""Rules of what moves numbers, and of products of matrices, against finite differences."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gradient_check import Case, check
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradient_elementwise import REDUCTIONS

from qcompress.gradient import RULES

DETERMINISTIC = settings(deadline=None, derandomize=True, max_examples=8)


def header(opset: int = 18) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]>'


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


MOVES = {
    "Reshape (x, to)": {"to": ints(0, -1)},
    "Reshape (x, to2)": {"to2": ints(2, 2, 3, 2)},
    "Unsqueeze (x, axes)": {"axes": ints(0, -1)},
    "Expand (x, to)": {"to": ints(2, 2, 3, 1)},
    "Tile (x, repeats)": {"repeats": ints(2, 1, 3)},
    "Pad (x, pads)": {"pads": ints(0, 1, 2, 1, 0, 1)},
    "Pad (x, pads, c)": {"pads": ints(0, 1, 2, 1, 0, -1), "c": np.float32(0.5)},
    "Slice (x, a, b)": {"a": ints(0, 1), "b": ints(9, 3)},
    "Slice (x, a, b, axes)": {"a": ints(-3, 1), "b": ints(-1, 3), "axes": ints(-1, 1)},
    "Slice (x, a, b, axes, steps)": {"a": ints(3, -9), "b": ints(-9, 3), "axes": ints(2, 1), "steps": ints(-2, 2)},
    "Gather (x, i)": {"i": ints(1, 0, 1, -1)},
    "Gather <axis = 1> (x, i)": {"i": np.array([[1, 0], [2, 2]])},
    "Gather <axis = -1> (x, i)": {"i": np.asarray(2)},
    "GatherElements <axis = 1> (x, i)": {"i": np.array([[[0, 1, 2, 0]], [[2, 2, -1, 1]]])},
    "GatherND (x, i)": {"i": np.array([[0, 1], [1, 2], [0, 1]])},
    "Identity (x)": {},
    "Transpose (x)": {},
}


@pytest.mark.parametrize("call", MOVES)
@pytest.mark.parametrize("dims", ["2, 3, 4", "n, 3, t", "p, q, r"])
def test_moves(call, dims):
    text = f"{header()} net (float[{dims}] x) => (float[o] y) {{ z = {call} \n y = Reshape (z, flat) }}"
    untouched = [name for name in MOVES[call] if name != "c"]
    check(Case(text, {"x": (2, 3, 4)}, {**MOVES[call], "flat": ints(-1)}, untouched, linear="c)" in call))


@pytest.mark.parametrize("opset", [13, 14])
def test_indices_given_as_data_and_older_operator_sets(opset):
    text = f"""{header(opset)} net (float[n, 3] x, int64[m] i, int64[k] a, int64[k] b) => (float[p] y) {{
        rows = Gather (x, i)
        part = Slice (rows, a, b)
        y = Reshape (part, flat)
    }}"""
    feed = {"x": (4, 3), "i": ints(0, 2, 2), "a": ints(0, 1), "b": ints(3, 3)}
    check(Case(text, feed, {"flat": ints(-1)}))


@pytest.mark.parametrize(("mode", "blocks"), [("DCR", (2, 8, 2, 3)), ("CRD", (2, 8, 2, 3))])
@pytest.mark.parametrize("dims", ["2, 8, 2, 3", "n, c, h, w"])
def test_blocks(mode, blocks, dims):
    text = f"""{header()} net (float[{dims}] x) => (float[a, b, h2, w2] y) {{
        wide = DepthToSpace <blocksize = 2, mode = "{mode}"> (x)
        sine = Mul (wide, wide)
        y = SpaceToDepth <blocksize = 2> (sine)
    }}"""
    check(Case(text, {"x": blocks}))


@pytest.mark.parametrize("dims", ["2, 3", "n, m"])
def test_concat_and_split(dims):
    text = f"""{header()} net (float[{dims}] a, float[k, 3] b) => (float[p, 2] y, float[p, 2] z) {{
        joined = Concat <axis = -2> (a, b, a, c)
        rest, y, none = Split <axis = 1> (doubled, sizes)
        doubled = Concat <axis = 1> (joined, joined)
        z = Slice (rest, start, end, one)
    }}""".replace(
        "rest, y, none = Split <axis = 1> (doubled, sizes)\n        doubled = Concat <axis = 1> (joined, joined)",
        "doubled = Concat <axis = 1> (joined, joined)\n        rest, y, none = Split <axis = 1> (doubled, sizes)",
    )
    weights = {"c": (1, 3), "sizes": ints(3, 2, 1), "start": ints(1), "end": ints(3), "one": ints(1)}
    check(Case(text, {"a": (2, 3), "b": (4, 3)}, weights))


def test_casts_between_floats():
    text = f"""{header()} net (float[n, 3] x) => (float[n, 3] y) {{
        wide = Cast <to = 11> (x)
        square = Mul (wide, wide)
        y = Cast <to = 1> (square)
    }}"""
    check(Case(text, {"x": (2, 3)}))


@DETERMINISTIC
@given(
    turned=st.tuples(st.booleans(), st.booleans()),
    factors=st.sampled_from([(1.0, 1.0), (0.5, 2.0)]),
    bias=st.sampled_from([None, (), (1,), (4,), (2, 4), (2, 1)]),
    static=st.booleans(),
)
def test_gemm(turned, factors, bias, static):
    shapes = {"a": (3, 2) if turned[0] else (2, 3), "b": (4, 3) if turned[1] else (3, 4)}
    attributes = f"transA = {int(turned[0])}, transB = {int(turned[1])}, alpha = {factors[0]}, beta = {factors[1]}"
    weights = {"b": shapes["b"]} | ({} if bias is None else {"c": np.ones(bias, np.float32)})
    dims = ", ".join(map(str, shapes["a"])) if static else "p, q"
    call = "a, b" if bias is None else "a, b, c"
    check(
        Case(
            f"{header()} net (float[{dims}] a) => (float[r, s] y) {{ y = Gemm <{attributes}> ({call}) }}",
            {"a": shapes["a"]},
            weights,
        )
    )


@st.composite
def factors(draw):
    """Shapes that MatMul multiplies: vectors, matrices and batches that broadcast."""
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    sides = []
    for matrix in ((2, 3), (3, 4)):
        own = [1 if draw(st.integers(0, 3)) == 0 else size for size in batch][draw(st.integers(0, len(batch))) :]
        vector = draw(st.integers(0, 4)) == 0
        sides.append((3,) if vector else (*own, *matrix))
    return sides, draw(st.sampled_from(["static", "free", "constant"]))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(drawn=factors())
def test_matmul(drawn):
    (first, second), kind = drawn
    result = np.matmul(np.zeros(first), np.zeros(second)).ndim
    if result == 0:
        return  # text models have no outputs of rank 0
    dims = [
        ", ".join(f"{side}{axis}" if kind == "free" else str(size) for axis, size in enumerate(shape))
        for side, shape in (("a", first), ("b", second))
    ]
    second_input = "" if kind == "constant" else f", float[{dims[1]}] b"
    text = f"{header()} net (float[{dims[0]}] a{second_input}) => (float[{', '.join('rstu'[:result])}] y) {{ y = MatMul (a, b) }}"
    feed = {"a": first} if kind == "constant" else {"a": first, "b": second}
    check(Case(text, feed, {"b": second} if kind == "constant" else {}))


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bkj->bik", "bij,bjk", "i,j->ij", "bhqd,bhkd->bhqk", "ij,jk,kl->il"])
def test_einsum(equation):
    sizes = dict(zip("bhijkldq", (2, 2, 3, 4, 2, 3, 2, 3), strict=True))
    terms = equation.split("->")[0].split(",")
    names = [f"x{index}" for index in range(len(terms))]
    inputs = ", ".join(f"float[{', '.join(term)}] {name}" for name, term in zip(names, terms, strict=True))
    rank = len(equation.split("->")[1]) if "->" in equation else 3
    text = f'{header()} net ({inputs}) => (float[{", ".join("rstu"[:rank])}] y) {{ y = Einsum <equation = "{equation}"> ({", ".join(names)}) }}'
    check(Case(text, {name: tuple(sizes[letter] for letter in term) for name, term in zip(names, terms, strict=True)}))


def test_what_is_left():
    text = f"""{header()} net (float[n, 1, 4] x, float[n, 1, 4] z) => (float[n, 4] y) {{
        flat = Squeeze (x, axes)
        rest = Squeeze (z, axes)
        clock = Mod <fmod = 1> (flat, two)
        y = Mul (clock, rest)
    }}"""
    feed = {"x": np.linspace(-5, 5, 8, dtype=np.float32).reshape(2, 1, 4), "z": (2, 1, 4)}
    check(Case(text, feed, {"axes": ints(1), "two": np.full(1, 2, np.float32)}, untouched=["two"]))


def test_every_rule_is_tested():
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_gradient_*.py")]
    named = set(re.findall(r"\w+", " ".join(texts))) | {f"Reduce{name}" for name in REDUCTIONS}
    assert set(RULES) <= named, sorted(set(RULES) - named)
