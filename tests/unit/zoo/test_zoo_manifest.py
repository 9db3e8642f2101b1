"""Models listed in zoo.toml, found in folders, and written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompress.cli.passing import vocabulary
from qcompress.errors import ModelError, RecipeError
from qcompress.zoo.discovery import discover
from qcompress.zoo.manifest import manifest_text, options_of, read_manifest

WORDS = vocabulary()


def written(folder: Path, text: str) -> Path:
    path = folder / "zoo.toml"
    path.write_text(text)
    return path


def test_a_model_wins_over_the_command_line_and_that_over_the_defaults(tmp_path):
    path = written(
        tmp_path,
        """
        [defaults]
        recipe = "int4"
        effort = "fast"
        seed = 3
        [[models]]
        model = "a.onnx"
        seed = 5
        [[models]]
        model = "deep/b.onnx"
        """,
    )
    first, second = read_manifest(path, WORDS, {"recipe": "int8", "seed": 4})
    assert first.options == {"--recipe": ("int8",), "--effort": ("fast",), "--seed": ("5",)}
    assert second.options["--seed"] == ("4",)
    assert (first.name, second.name) == ("a", "deep/b")


def test_paths_are_seen_from_the_manifest(tmp_path):
    path = written(
        tmp_path,
        """
        [[models]]
        name = "renamed/x"
        model = "a.onnx"
        data = "calib.npz"
        eval_data = "loader:batches"
        recipe = "mine.toml"
        timing_data = "random"
        """,
    )
    (entry,) = read_manifest(path, WORDS, {})
    assert entry.name == "renamed/x"
    assert entry.model == str(tmp_path / "a.onnx")
    assert entry.data == str(tmp_path / "calib.npz")
    assert entry.eval_data == "loader:batches"
    assert entry.options == {"--recipe": (str(tmp_path / "mine.toml"),), "--timing-data": ("random",)}


def test_every_kind_of_option_is_written_as_on_the_command_line(tmp_path):
    path = written(
        tmp_path,
        """
        [[models]]
        model = "a.onnx"
        latency = false
        clip = true
        discard-on-fail = false
        include = ["Conv", "/head"]
        image_mean = [0.5, 0.25, 0.125]
        image_size = "224x320"
        gates = { max_accuracy_drop = 0.01, min-speedup = 1.5 }
        timeout = 90
        """,
    )
    (entry,) = read_manifest(path, WORDS, {})
    assert entry.seconds == 90
    assert entry.options == {
        "--no-latency": (),
        "--clip": (),
        "--include": ("Conv", "/head"),
        "--image-mean": ("0.5,0.25,0.125",),
        "--image-size": ("224x320",),
        "--max-accuracy-drop": ("0.01",),
        "--min-speedup": ("1.5",),
    }


def test_a_switch_of_the_command_line_replaces_its_opposite_in_the_defaults(tmp_path):
    path = written(tmp_path, "[defaults]\nlatency = true\n[[models]]\nmodel = 'a.onnx'\n")
    (entry,) = read_manifest(path, WORDS, {"latency": False})
    assert entry.options == {"--no-latency": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = [", "not TOML"),
        ("", "no models"),
        ("[[model]]\nmodel = 'a.onnx'", "unknown key 'model'"),
        ("[[models]]\nmodel = 'a.onnx'\nrecipie = 'int8'", "unknown key 'recipie'.*did you mean recipe"),
        ("[[models]]\nmodel = 'a.onnx'\ngates = { max_size = 1 }", "gates: unknown key 'max_size'"),
        ("[[models]]\nmodel = 'a.onnx'\noutput = 'x.onnx'", "unknown key 'output'"),
        ("[[models]]\nname = 'a'", "model a has no model"),
        ("[[models]]\nmodel = 'a.onnx'\nlatency = 'no'", "latency cannot be 'no'.*true or false"),
        ("[[models]]\nmodel = 'a.onnx'\nseed = true", "seed cannot be True"),
        ("[[models]]\nmodel = 'a.onnx'\ntimeout = 'long'", "timeout cannot be 'long'"),
        ("[[models]]\nmodel = 'a.onnx'\nname = '../a'", "not a name"),
        ("[[models]]\nmodel = 'a.onnx'\nname = 5", "name cannot be 5"),
        ("[[models]]\nmodel = 'a.onnx'\nname = ''", "name cannot be ''"),
        ("[[models]]\nmodel = 'a.onnx'\ndata = ''", "data cannot be ''"),
        ('[[models]]\nmodel = "a\\u0000.onnx"', "model cannot be"),
        ("[[models]]\nmodel = 'a.onnx'\n[[models]]\nmodel = 'a.onnx'", "two models are called 'a'"),
        ("[defaults]\nmodels = 1\n[[models]]\nmodel = 'a.onnx'", "unknown key 'models'"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, text, message):
    with pytest.raises(RecipeError) as raised:
        read_manifest(written(tmp_path, text), WORDS, {})
    import re

    assert re.search(message, str(raised.value), re.DOTALL), str(raised.value)
    assert "zoo.toml" in str(raised.value)


def test_a_name_too_long_for_a_file_is_the_jobs_trouble(tmp_path):
    (found,) = read_manifest(written(tmp_path, f"[[models]]\nname = 'a'\nmodel = '{'a' * 400}.onnx'"), WORDS, {})
    assert found.model == str(tmp_path / f"{'a' * 400}.onnx")


def test_a_missing_manifest_is_told(tmp_path):
    with pytest.raises(RecipeError, match="cannot read"):
        read_manifest(tmp_path / "zoo.toml", WORDS, {})


def model(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"model")
    return path


def test_each_model_has_the_data_that_lies_with_it(tmp_path):
    beside = model(tmp_path / "a.onnx")
    beside.with_name("a.calib.npz").touch()
    beside.with_name("a.eval.npz").touch()
    model(tmp_path / "resnet" / "model.onnx")
    (tmp_path / "resnet" / "test_data_set_0").mkdir()
    model(tmp_path / "plain.onnx")
    (tmp_path / "plain" / "test_data_set_0").mkdir(parents=True)
    model(tmp_path / "zz" / "alone.onnx")
    found = {entry.name: (entry.data, entry.eval_data) for entry in discover(tmp_path)}
    assert found == {
        "a": (str(tmp_path / "a.calib.npz"), str(tmp_path / "a.eval.npz")),
        "plain": (str(tmp_path / "plain"), None),
        "resnet/model": (str(tmp_path / "resnet"), None),
        "zz/alone": (None, None),
    }
    assert list(found) == sorted(found)


def test_results_hidden_folders_and_other_files_are_not_models(tmp_path):
    for name in ("a.onnx", "out/a.onnx", ".cache/b.onnx", "notes.txt", "c.ort", "other/x.onnx"):
        model(tmp_path / name)
    (tmp_path / "other" / ".qcompress-batch").mkdir()  # results of another batch
    (tmp_path / "folder.onnx").mkdir()
    assert [entry.name for entry in discover(tmp_path, apart_from=tmp_path / "out")] == ["a"]
    assert [entry.name for entry in discover(tmp_path, "*.ort")] == ["c"]


def test_nothing_found_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"there is no \*\*/\*\.onnx"):
        discover(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        discover(tmp_path / "nowhere")


def test_a_written_manifest_lists_what_was_found(tmp_path):
    model(tmp_path / "deep" / 'with "quotes".onnx')
    model(tmp_path / "a.onnx").with_name("a.calib.npz").touch()
    found = discover(tmp_path)
    path = written(tmp_path, manifest_text(found, tmp_path, {}))
    again = read_manifest(path, WORDS, {})
    assert [(item.name, item.model, item.data) for item in again] == [(item.name, item.model, item.data) for item in found]
    assert all(not item.options for item in again)  # what runs from a list is what ran from the folder
    given = {"recipe": "int4", "latency": False, "exclude": ["a", "b"], "max_accuracy_drop": 0.02, "seed": 3}
    path.write_text(manifest_text(found, tmp_path, given))
    assert all(item.options == options_of(given, WORDS, "") for item in read_manifest(path, WORDS, {}))
