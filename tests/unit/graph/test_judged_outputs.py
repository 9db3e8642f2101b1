"""Which outputs count: terminal float ones, unless others are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_models import load

from qcompress.graph.outputs import judged_outputs, states

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
W = {"w": (16, 16), "u": (16, 16)}


@pytest.mark.parametrize(
    ("body", "outputs", "judged"),
    [
        ("h = MatMul (x, w) \n y = MatMul (h, u)", "float[n, 16] h, float[n, 16] y", ("y",)),
        ("h = MatMul (x, w) \n g = Cast <to = 11> (h) \n y = MatMul (h, u)", "double[n, 16] g, float[n, 16] y", ("y",)),
        (
            "h = MatMul (x, w) \n s = Shape (h) \n z = MatMul (x, u) \n y = Reshape (z, s)",
            "float[n, 16] h, float[n, 16] y",
            ("h", "y"),
        ),
        ("y = MatMul (x, w) \n i = ArgMax <axis = 1> (y)", "float[n, 16] y, int64[n, 1] i", ("y",)),
        ("h = MatMul (x, w) \n i = ArgMax <axis = 1> (h)", "int64[n, 1] i", ("i",)),
    ],
    ids=["an inner map", "behind a Cast", "read for its shape", "classes beside scores", "no float output"],
)
def test_terminal_float_outputs_count(body: str, outputs: str, judged: tuple[str, ...], tmp_path: Path) -> None:
    model = load(
        tmp_path, f"{HEADER} net (float[n, 16] x) => ({outputs}) {{ {body} }}", W if "u)" in body else {"w": (16, 16)}
    )
    assert judged_outputs(model) == judged


def test_named_outputs_count_whatever_they_are(tmp_path: Path) -> None:
    text = f"{HEADER} net (float[n, 16] x) => (float[n, 16] h, float[n, 16] y) {{ h = MatMul (x, w) \n y = MatMul (h, u) }}"
    assert judged_outputs(load(tmp_path, text, W), ["h"]) == ("h",)


def test_a_value_captured_by_a_body_is_inner(tmp_path: Path) -> None:
    text = f"""{HEADER} net (float[n, 16] x, bool c) => (float[n, 16] h, float[n, 16] y) {{
        h = MatMul (x, w)
        y = If (c) <then_branch = then () => (float[n, 16] o) {{ o = Abs (h) }},
                    else_branch = other () => (float[n, 16] p) {{ p = Neg (x) }}>
    }}"""
    assert judged_outputs(load(tmp_path, text, {"w": (16, 16)})) == ("y",)


def test_states_are_outputs_of_recurrent_operators(tmp_path: Path) -> None:
    text = f"""{HEADER} net (float[t, 1, 4] x) => (float[t, 1, 1, 4] y, float[1, 1, 4] last) {{
        z, last = GRU <hidden_size = 4> (x, wx, wh)
        y = Tanh (z)
    }}"""
    model = load(tmp_path, text, {"wx": (1, 12, 4), "wh": (1, 12, 4)})
    assert states(model) == {"last"}
    assert judged_outputs(model) == ("y", "last")
