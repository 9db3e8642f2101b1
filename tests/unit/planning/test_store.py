"""Kept measurements: taken up again, ignored or refused when damaged, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qcompress.errors import OutputError, RecipeError
from qcompress.planning.store import CACHE_VARIABLE, STORE_VERSION, cache_folder, open_measurements

ABOUT = {"model": "abc", "data": "def", "threads": "2"}


def unmeasured() -> float:
    raise AssertionError("measured again")


def written(file: Path | None) -> None:
    measurements = open_measurements(ABOUT, "machine", file)
    assert measurements.loss("joint/a", lambda: 0.25) == 0.25
    assert measurements.speedup("b", lambda: 1.5) == 1.5
    measurements.save()


@pytest.mark.parametrize("named", [True, False])
def test_what_was_measured_is_not_measured_again(named: bool, tmp_path: Path) -> None:
    file = tmp_path / "costs.json" if named else None
    written(file)
    again = open_measurements(ABOUT, "machine", file)
    assert again.loss("joint/a", unmeasured) == 0.25
    assert again.speedup("b", unmeasured) == 1.5


def test_the_cache_of_another_machine_or_model_is_another() -> None:
    written(None)
    assert open_measurements(ABOUT, "other machine", None).losses == {}
    assert open_measurements({**ABOUT, "model": "other"}, "machine", None).losses == {}


def test_a_named_file_may_come_from_another_machine(tmp_path: Path) -> None:
    written(tmp_path / "costs.json")
    assert open_measurements(ABOUT, "other machine", tmp_path / "costs.json").losses == {"joint/a": 0.25}


@pytest.mark.parametrize("key", ABOUT)
def test_a_named_file_about_something_else_is_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    written(file)
    with pytest.raises(RecipeError, match=f"other {key}"):
        open_measurements({**ABOUT, key: "other"}, "machine", file)


DAMAGED = ["", "{", "[]", "{}", json.dumps({"version": STORE_VERSION + 1}), '{"version": 1, "about": 3}', "null"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_named_file_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        open_measurements(ABOUT, "machine", file)
    assert "another name" in caught.value.hint


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_cache_is_measured_again(text: str) -> None:
    written(None)
    folder = cache_folder()
    assert folder is not None
    (file,) = folder.glob("*.json")
    file.write_text(text)
    measurements = open_measurements(ABOUT, "machine", None)
    assert measurements.losses == {}
    measurements.save()
    assert json.loads(file.read_text())["version"] == STORE_VERSION


def test_writing_leaves_one_whole_file(tmp_path: Path) -> None:
    for _ in range(2):
        written(tmp_path / "costs.json")
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        written(tmp_path / "nowhere" / "costs.json")


def test_the_cache_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None
    written(None)
    assert open_measurements(ABOUT, "machine", None).losses == {}
