"""Cost tables survive their files, and damaged files are named as such."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompress.errors import RecipeError
from qcompress.plan.cost import COST_VERSION, FLOAT, Charges, CostTable, VariantCost
from qcompress.results import MachineFacts

NAMES = st.text(max_size=8)
TIMES = st.floats(0.0, 1e6, allow_nan=False)
TABLES = st.dictionaries(NAMES, TIMES, max_size=4)
CHARGES = st.builds(Charges, TABLES, TABLES, TABLES, TABLES, TABLES)
TUPLES = st.lists(NAMES, max_size=3).map(tuple)
VARIANTS = st.builds(VariantCost, TIMES, st.dictionaries(NAMES, NAMES, max_size=3), TUPLES, TUPLES, CHARGES)
MACHINES = st.builds(MachineFacts, NAMES, NAMES, st.integers(0, 512), st.integers(0, 512), NAMES)
COSTS = st.builds(
    lambda source, ms, machine, plain, others: CostTable(source, ms, machine, {FLOAT: plain, **others}),
    NAMES,
    TIMES,
    MACHINES,
    VARIANTS,
    st.dictionaries(NAMES.filter(lambda name: name != FLOAT), VARIANTS, max_size=3),
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(COSTS)
def test_a_table_survives_its_file_byte_for_byte(table):
    text = table.to_json()
    again = CostTable.from_json(text)
    assert again == table
    assert list(again.variants) == list(table.variants)
    assert again.to_json() == text


@settings(deadline=None, derandomize=True, max_examples=60)
@given(COSTS, st.data())
def test_a_damaged_file_is_refused_or_read_but_never_crashes(table, data):
    text = table.to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from(["", "-", "}", '"', "null", "NaN"])) + text[at + 1 :]
    with suppress(RecipeError):
        assert CostTable.from_json(damaged).variants


@settings(deadline=None, derandomize=True, max_examples=60)
@given(CHARGES, st.floats(0.01, 100.0))
def test_scaled_charges_scale_their_total(charges, factor):
    assert charges.scaled(factor).total == pytest.approx(charges.total * factor, rel=1e-9, abs=1e-12)


def content() -> dict[str, object]:
    plain = VariantCost(1.0, {}, (), (), Charges({"a": 1.0}))
    table = CostTable("digest", 1.0, MachineFacts("cpu", "arch", 2, 1, "onnxruntime 1"), {FLOAT: plain})
    return json.loads(table.to_json())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": COST_VERSION + 1}, "has version"),
        ({"variants": {}}, "float model"),
        ({"source_ms": -1.0}, "not a time"),
        ({"source_ms": True}, "not a time"),
        ({"source_ms": float("nan")}, "not a time"),
        ({"machine": None}, "not a cost file"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    with pytest.raises(RecipeError, match=message):
        CostTable.from_json(json.dumps(content() | change))
