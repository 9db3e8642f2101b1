"""Summaries: the worst first, the exit code, every format."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser

import pytest

from qcompress.errors import ExitCode
from qcompress.report import RenderOptions
from qcompress.zoo.formats import SUMMARY_FILES, SUMMARY_FORMATS
from qcompress.zoo.jobs import Figures, Outcome, Status, Summary, summary_from_json
from qcompress.zoo.severity import SEVERITY, worst_first


def done(name: str, ratio: float = 0.25, drop: float | None = None) -> Outcome:
    return Outcome(name, Status.DONE, figures=Figures(1_000_000, int(1_000_000 * ratio), 1.5, drop, "accuracy"), seconds=3.0)


SUMMARY = Summary(
    worst_first(
        [
            done("fine", 0.25, 0.001),
            Outcome("gone", Status.CRASHED, cause="ended by SIGSEGV, <b>|odd|</b>", stage="Calibrating", peak=123_000_000),
            Outcome("old", Status.DONE, figures=Figures(2_000_000, 500_000), reused=True),
        ]
    ),
    12.0,
    456_000_000,
    {"qcompress": "0"},
)


def test_the_worst_come_first_in_an_order_of_their_own():
    outcomes = [done("b"), done("a"), done("lossy", drop=0.2), done("large", 0.5)]
    outcomes += [Outcome(str(status), status) for status in SEVERITY if status is not Status.DONE]
    names = [outcome.name for outcome in worst_first(outcomes)]
    assert names == [*(str(status) for status in SEVERITY[:-1]), "lossy", "large", "a", "b"]
    assert [outcome.name for outcome in worst_first(reversed(outcomes))] == names
    assert set(SEVERITY) == set(Status)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], ExitCode.DONE),
        ([Status.DONE, Status.DONE], ExitCode.DONE),
        ([Status.DONE, Status.NOTHING], ExitCode.NOTHING_TO_COMPRESS),
        ([Status.DONE, Status.GATE_FAILED, Status.NOTHING], ExitCode.GATE_FAILED),
        ([Status.DONE, Status.CRASHED], ExitCode.GATE_FAILED),
        ([Status.UNUSABLE, Status.TIMED_OUT], ExitCode.UNUSABLE),
        ([Status.UNUSABLE, Status.NOTHING], ExitCode.UNUSABLE),
    ],
)
def test_the_exit_code_is_that_of_the_worst(statuses, code):
    assert Summary(tuple(Outcome(str(index), status) for index, status in enumerate(statuses))).exit_code == code


@pytest.mark.parametrize("form", SUMMARY_FORMATS)
def test_every_format_has_every_model_and_cause(form):
    text = SUMMARY_FORMATS[form](SUMMARY, RenderOptions(width=200))
    plain = text.replace("\\", "").replace("&lt;", "<").replace("&gt;", ">")
    for word in ("fine", "gone", "old", "crashed", "SIGSEGV, <b>|odd|</b>", "Calibrating"):
        assert word in plain, word
    assert text.index("gone") < text.index("fine")
    assert not text.endswith("\n")


def test_tables_have_totals():
    text = SUMMARY_FORMATS["table"](SUMMARY, RenderOptions())
    assert "3 models: 2 done, 1 crashed; 1 as they were from an earlier run" in text
    assert "3.0 MB became 750.0 kB, 4.00 times smaller" in text
    assert "12 s for 3 s of work, at most 456 MB of memory" in text


def test_random_data_is_told():
    random = Summary((Outcome("r", Status.DONE, figures=Figures(10, 5, random=True)),))
    assert "RANDOM DATA" in SUMMARY_FORMATS["markdown"](random, RenderOptions())


def test_json_and_csv_can_be_read_back():
    text = SUMMARY_FORMATS["json"](SUMMARY, RenderOptions())
    assert summary_from_json(text) == SUMMARY
    assert json.loads(text)["exit_code"] == 1
    rows = list(csv.DictReader(io.StringIO(SUMMARY_FORMATS["csv"](SUMMARY, RenderOptions()))))
    assert [row["model"] for row in rows] == [outcome.name for outcome in SUMMARY.outcomes]
    assert rows[0]["cause"] == "ended by SIGSEGV, <b>|odd|</b>"
    assert float(next(row for row in rows if row["model"] == "fine")["ratio"]) == 0.25


def test_the_page_is_well_formed_and_escaped():
    class Tags(HTMLParser):
        open_tags: list[str]

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag

    parser = Tags()
    parser.open_tags = []
    text = SUMMARY_FORMATS["html"](SUMMARY, RenderOptions())
    parser.feed(text)
    assert parser.open_tags == []
    assert "<b>" not in text


def test_files_are_formats_that_exist():
    assert set(SUMMARY_FILES.values()) <= set(SUMMARY_FORMATS)
