"""JUnit XML: well-formed whatever the names, counts that add up, a case for every gate."""

from dataclasses import replace
from xml.etree.ElementTree import fromstring

from qcompress.report import render
from qcompress.report.formats.junit import End, junit_document, junit_result, junit_suite
from qcompress.results import Report


def test_a_report_is_a_suite_with_a_case_for_every_gate(full: Report) -> None:
    root = fromstring(render(full, "junit"))
    assert root.tag == "testsuites"
    (suite,) = root
    failed = sum(not gate.passed for gate in full.gates)
    assert failed, "the report of this test has a gate that failed"
    assert suite.attrib | {"time": ""} == {
        "name": full.source,
        "time": "",
        "tests": str(1 + len(full.gates)),
        "failures": str(failed),
        "errors": "0",
        "skipped": "0",
    }
    assert [case.get("name") for case in suite] == ["compressed", *(gate.name for gate in full.gates)]
    messages = [failure.get("message") for failure in suite.findall("testcase/failure")]
    assert messages == [gate.message for gate in full.gates if not gate.passed]
    assert {key: root.get(key) for key in ("tests", "failures")} == {key: suite.get(key) for key in ("tests", "failures")}


def test_suites_add_up(full: Report) -> None:
    suites = [
        junit_suite(full, "good", 1.5),
        junit_result("bad", End.ERROR, "truncated", "ModelError", 0.25),
        junit_result("small", End.SKIPPED, "nothing to compress"),
        junit_result("fine", End.PASSED, "a quarter of the size"),
    ]
    root = fromstring(junit_document(suites))
    assert [suite.get("name") for suite in root] == ["good", "bad", "small", "fine"]
    assert (root.get("errors"), root.get("skipped"), root.get("time")) == ("1", "1", "1.750")
    assert root.get("tests") == str(len(root.findall("testsuite/testcase")))
    error = root.find("testsuite/testcase/error")
    assert error is not None
    assert (error.get("type"), error.get("message")) == ("ModelError", "truncated")


def test_anything_can_be_told(full: Report) -> None:
    odd = 'a<b>&"\x00\x1b[31m\ud800 \U0001f600\n'
    gates = tuple(replace(gate, message=odd) for gate in full.gates)
    root = fromstring(
        junit_document(
            [junit_suite(replace(full, source=odd, gates=gates)), junit_result(odd, End.ERROR, odd, "x")]
        ).encode()
    )
    assert root[0].get("name") == 'a<b>&"\ufffd\ufffd[31m\ufffd \U0001f600\n'
