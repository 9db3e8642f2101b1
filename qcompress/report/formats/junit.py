"""Reports as JUnit XML, which CI servers show as tests: a suite for every model, a case for every promise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from qcompress.report.formats.options import RenderOptions
from qcompress.report.formats.table import format_table
from qcompress.results import Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot say, not even escaped."""


def format_junit(report: Report, options: RenderOptions) -> str:
    """The report as a document of one suite."""
    return junit_document([junit_suite(report, verbose=options.verbose)])


def junit_suite(report: Report, name: str | None = None, seconds: float = 0.0, verbose: bool = False) -> Element:
    """The suite of a model: that it was compressed, with the report as its output, and every gate.

    Args:
        report: of the run.
        name: of the suite; the model's if None.
        seconds: the run took.
        verbose: list every weight.
    """
    suite = _suite(name or report.source, seconds)
    _case(suite, "compressed").append(_text("system-out", format_table(report, RenderOptions(verbose=verbose))))
    for gate in report.gates:
        case = _case(suite, gate.name)
        if gate.passed:
            case.append(_text("system-out", gate.message))
        else:
            case.append(_problem("failure", gate.message, gate.name))
    return suite


class End(StrEnum):
    """How a case can end; the values are JUnit's words."""

    PASSED = "system-out"
    FAILED = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


def junit_result(name: str, end: End, message: str, kind: str = "", seconds: float = 0.0) -> Element:
    """The suite of a model of which no more is known than how it ended.

    Args:
        name: of the suite.
        end: of its only case.
        message: what came out, or what is wrong and what to do.
        kind: of the failure, in a word.
        seconds: the run took.
    """
    suite = _suite(name, seconds)
    found = _text(end, message) if end is End.PASSED else _problem(end, message, kind)
    _case(suite, "compressed").append(found)
    return suite


def junit_document(suites: Iterable[Element]) -> str:
    """All suites as one document; the counts are filled in."""
    root = Element("testsuites", {"name": "qcompress"})
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    seconds = 0.0
    for suite in suites:
        counts = {
            "tests": len(suite.findall("testcase")),
            "failures": len(suite.findall("testcase/failure")),
            "errors": len(suite.findall("testcase/error")),
            "skipped": len(suite.findall("testcase/skipped")),
        }
        for key, count in counts.items():
            suite.set(key, str(count))
            totals[key] += count
        seconds += float(suite.get("time", "0"))
        root.append(suite)
    for key, count in totals.items():
        root.set(key, str(count))
    root.set("time", f"{seconds:.3f}")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")


def _suite(name: str, seconds: float) -> Element:
    return Element("testsuite", {"name": _clean(name), "time": f"{seconds:.3f}"})


def _case(suite: Element, name: str) -> Element:
    """A case; the time of the suite is told of its first."""
    seconds = suite.get("time", "0") if suite.find("testcase") is None else "0"
    return SubElement(suite, "testcase", {"classname": suite.get("name", ""), "name": name, "time": seconds})


def _problem(tag: str, message: str, kind: str) -> Element:
    found = Element(tag, {"message": _clean(message), "type": kind})
    found.text = _clean(message)
    return found


def _text(tag: str, text: str) -> Element:
    found = Element(tag)
    found.text = _clean(text)
    return found


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
