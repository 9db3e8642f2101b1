import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import get_args, get_type_hints

import jsonschema
import pytest

from qcompress.errors import UsageError
from qcompress.report import from_json, render, schema
from qcompress.report.formats.json import DERIVED
from qcompress.results import MetricPair, Report


def dataclasses_in(kind, found=None):
    """Every dataclass reachable from the type of a field."""
    found = {} if found is None else found
    if is_dataclass(kind) and kind.__name__ not in found:
        found[kind.__name__] = kind
        for hint in get_type_hints(kind).values():
            dataclasses_in(hint, found)
    for part in get_args(kind):
        dataclasses_in(part, found)
    return found


def objects_in(node):
    """Every part of the schema that describes a dataclass."""
    if isinstance(node, Mapping):
        if "properties" in node:
            yield node
        for part in node.values():
            yield from objects_in(part)


@pytest.mark.parametrize("name", ["full", "bare"])
def test_reports_follow_the_published_schema(name, request):
    jsonschema.Draft202012Validator(schema()).validate(json.loads(render(request.getfixturevalue(name), "json")))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_has_every_field_of_every_dataclass_and_no_other():
    published = schema()
    described = {"Report": published, **published["$defs"]}
    declared = dataclasses_in(Report)
    assert set(described) == set(declared)
    for name, kind in declared.items():
        extra = set(DERIVED) if name == "Report" else set()
        names = {item.name for item in fields(kind)} | extra
        assert set(described[name]["properties"]) == names, name
        assert set(described[name]["required"]) == names, name


def test_the_schema_allows_nothing_unknown():
    found = list(objects_in(schema()))
    assert len(found) >= 13
    assert all(part["additionalProperties"] is False and part["description"] for part in found)


@pytest.mark.parametrize("damage", [{"surprise": 1}, {"size_ratio": "a third"}, {"schema_version": 2}, {"exit_code": 70}])
def test_the_schema_refuses_what_is_no_report(full, damage):
    values = json.loads(render(full, "json")) | damage
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema()).validate(values)


def test_a_report_survives_the_round_trip(full, bare):
    assert from_json(render(bare, "json")) == bare
    text = render(full, "json")
    again = from_json(text)
    assert render(again, "json") == text
    assert again.coverage == full.coverage
    assert again.latency == full.latency
    assert again.exit_code == full.exit_code


def test_numbers_are_rounded_to_what_was_measured(full):
    values = json.loads(render(full, "json"))
    assert values["accuracy"]["float_task"]["accuracy"]["value"] == 0.912346
    assert values["size_ratio"] == 0.324
    assert values["size"]["float_bytes"] == 1_234_567


def test_the_version_comes_first_and_the_exit_code_second(full):
    assert list(json.loads(render(full, "json")))[:2] == ["schema_version", "exit_code"]
    assert json.loads(render(full, "json"))["exit_code"] == 1


def test_what_is_not_a_number_becomes_null(full):
    accuracy = replace(full.accuracy, metric=MetricPair("iou", float("nan"), float("inf")))
    values = json.loads(render(replace(full, accuracy=accuracy), "json"))
    assert values["accuracy"]["metric"] == {"name": "iou", "float_value": None, "compressed_value": None}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1}', '{"schema_version": 1, "source": 3}']
)
def test_what_is_no_report_cannot_be_read(text):
    with pytest.raises(UsageError, match="report"):
        from_json(text)


def test_a_report_with_an_unknown_key_cannot_be_read(bare):
    values = json.loads(render(bare, "json"))
    with pytest.raises(UsageError, match="surprise"):
        from_json(json.dumps(values | {"surprise": 1}))
