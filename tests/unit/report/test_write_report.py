import pytest

from qcompress.errors import OutputError, UsageError
from qcompress.report import RenderOptions, from_json, render, write_report


@pytest.mark.parametrize(("name", "fmt"), [("r.json", "json"), ("r.md", "markdown"), ("r.txt", "table"), ("R.JSON", "json")])
def test_the_suffix_chooses_the_format(full, tmp_path, name, fmt):
    write_report(full, tmp_path / name)
    assert (tmp_path / name).read_text("utf-8") == render(full, fmt, RenderOptions(verbose=True)) + "\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_older_report_is_replaced(full, bare, tmp_path):
    path = tmp_path / "report.json"
    write_report(full, path)
    write_report(bare, path)
    assert from_json(path.read_text("utf-8")) == bare


def test_an_unknown_suffix_is_a_usage_error(bare, tmp_path):
    with pytest.raises(UsageError, match=r"report\.xml"):
        write_report(bare, tmp_path / "report.xml")


def test_a_missing_folder_is_told(bare, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_report(bare, tmp_path / "missing" / "report.json")


def test_a_failure_leaves_nothing_behind(bare, tmp_path):
    target = tmp_path / "report.json"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OutputError):
        write_report(bare, target)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
