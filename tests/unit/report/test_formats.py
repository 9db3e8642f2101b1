from dataclasses import replace

import pytest

from qcompress.errors import UsageError
from qcompress.report import FORMATS, SUFFIXES, RenderOptions, render
from qcompress.results import KernelReport


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_tells_what_matters(full, fmt):
    text = render(full, fmt, RenderOptions(verbose=True)).replace("\\", "")
    for fact in ("int8/channel", "too small to pay", "QLinearConv", "/head/Gemm", "min_speedup", "opset raised", "logits"):
        assert fact in text
    assert not text.endswith("\n")


@pytest.mark.parametrize("fmt", ["table", "markdown"])
def test_random_data_is_stated_in_the_first_line(full, bare, fmt):
    assert "RANDOM DATA" in render(full, fmt).splitlines()[0]
    assert "RANDOM" not in render(bare, fmt)


@pytest.mark.parametrize("fmt", ["table", "markdown"])
def test_lost_outputs_are_stated_before_everything_else(full, fmt):
    text = render(full, fmt)
    assert text.index("OUTPUT LOST") < text.index("Result")


@pytest.mark.parametrize("fmt", ["table", "markdown"])
def test_what_was_not_measured_is_said(bare, fmt):
    text = render(bare, fmt)
    assert text.count("not measured") == 2
    assert "Gates" not in text


@pytest.mark.parametrize("verbose", [False, True])
def test_a_terminal_of_100_columns_is_enough(full, verbose):
    long = replace(full.coverage[1], weight="/model/" + "layer/" * 30 + "weight")
    text = render(replace(full, coverage=(*full.coverage, long)), "table", RenderOptions(verbose=verbose))
    assert max(len(line) for line in text.splitlines()) <= 100


def test_gates_come_last_and_failures_stand_out(full):
    text = render(full, "table")
    assert text.index("Gates") > text.index("Weights kept")
    assert "1 of 2 gates failed" in text
    assert "FAILED" in text.splitlines()[-1]


def test_colour_only_when_asked(full):
    assert "\x1b[" not in render(full, "table")
    assert "\x1b[" in render(full, "table", RenderOptions(color=True))


def test_totals_add_up(full):
    line = next(line for line in render(full, "table").splitlines() if line.strip().startswith("all  "))
    assert line.split() == ["all", "2", "1.9", "0.7", "0.350"]


def test_many_kept_weights_are_grouped_by_reason(full):
    kept = tuple(replace(full.coverage[1], weight=f"bias{index:03}") for index in range(50))
    text = render(replace(full, coverage=kept), "table")
    assert "bias000, bias001, bias002 and 47 more" in text
    assert "bias030" not in text
    assert "bias030" in render(replace(full, coverage=kept), "table", RenderOptions(verbose=True))


def test_markdown_escapes_what_would_break_a_table(full):
    assert "in/model\\|a.onnx" in render(full, "markdown")


def test_unknown_kernels_are_explained(full):
    text = render(replace(full, kernels=KernelReport({}, {}, 0, "onnxruntime", "the disk is full")), "table")
    assert "not known: the disk is full" in text


def test_a_larger_result_is_not_called_smaller(bare):
    text = render(replace(bare, size=replace(bare.size, compressed_bytes=150)), "table")
    assert "1.50x larger" in text


def test_an_unknown_format_is_a_usage_error(bare):
    with pytest.raises(UsageError, match="html"):
        render(bare, "html")


def test_suffixes_lead_to_formats():
    assert set(SUFFIXES.values()) <= set(FORMATS)


@pytest.mark.parametrize("fmt", ["table", "markdown"])
def test_pruned_weights_are_said_not_to_run_faster(full, fmt):
    assert "zero" not in render(full, fmt).lower().replace("opset", "")
    rows = tuple(replace(row, zeros=0.5, pruned=row.form is not None) for row in full.coverage)
    text = " ".join(render(replace(full, coverage=rows), fmt, RenderOptions(verbose=True)).split())
    assert "50.0% of the numbers in 1 pruned weights are zero" in text
    assert "not the model faster, for no CPU kernel skips zeros" in text
    assert "looked up" not in text
    tables = (replace(rows[0], operators=("Gather",), form="gathered"),)
    assert "stored like other numbers" in " ".join(render(replace(full, coverage=tables), fmt).split())
