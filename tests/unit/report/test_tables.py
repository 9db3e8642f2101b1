import json

import pytest

from qcompress.errors import UsageError
from qcompress.report import render_table

COLUMNS = ("operator", "weights", "forms", "note")
ROWS = (("Conv", 12, ("static", "folded"), None), ("Mat|Mul", 3, (), "[1, 2] *x*"))


def test_a_terminal_table_shows_every_cell():
    text = render_table("Operators", COLUMNS, ROWS, "table")
    assert text.startswith("Operators")
    for cell in ("Conv", "12", "static, folded", "Mat|Mul", "[1, 2] *x*"):
        assert cell in text


def test_markdown_is_a_github_table():
    lines = render_table("Operators", COLUMNS, ROWS, "markdown").splitlines()
    assert lines[0] == "### Operators"
    assert lines[2:4] == ["| operator | weights | forms | note |", "|---|---:|---|---|"]
    assert lines[5] == "| Mat\\|Mul | 3 |  | \\[1, 2\\] \\*x\\* |"


def test_json_keeps_the_values():
    found = json.loads(render_table("Operators", COLUMNS, ROWS, "json"))
    assert found[0] == {"operator": "Conv", "weights": 12, "forms": ["static", "folded"], "note": None}


def test_square_brackets_are_not_markup():
    assert "[red]x[/red]" in render_table("", ("a",), (("[red]x[/red]",),), "table")


def test_a_table_without_rows_is_still_one():
    assert render_table("", ("a",), (), "json") == "[]"
    assert "a" in render_table("", ("a",), (), "table")


def test_an_unknown_format_is_a_usage_error():
    with pytest.raises(UsageError, match="xml"):
        render_table("", ("a",), (), "xml")
