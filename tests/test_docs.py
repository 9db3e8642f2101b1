"""The README says what the program does: generated parts are up to date, examples use real options, links exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import update_readme

from qcompress.cli import COMMANDS, main
from qcompress.cli.passing import vocabulary
from qcompress.recipe import recipe_from_table
from qcompress.zoo.manifest import read_manifest

TEXT = update_readme.README.read_text(encoding="utf-8")
HAND_WRITTEN = update_readme.PART.sub("", TEXT)


@pytest.mark.parametrize("name", update_readme.GENERATED)
def test_a_generated_part_is_up_to_date(name: str) -> None:
    assert update_readme.parts(TEXT)[name] == update_readme.GENERATED[name](), "run `make docs`"


def test_every_marked_part_is_known() -> None:
    assert set(update_readme.parts(TEXT)) == {*update_readme.GENERATED, *update_readme.MEASURED}


def test_updating_twice_changes_nothing() -> None:
    assert update_readme.updated(TEXT, update_readme.GENERATED) == TEXT


def command_lines() -> list[list[str]]:
    """Every call of qcompress in the hand-written text."""
    joined = re.sub(r"(qcompress compress[^\n]*)\n    (--[^\n]*)\n    (--[^\n]*)", r"\1 \2 \3", HAND_WRITTEN)
    calls = re.findall(rf"qcompress (?:{'|'.join(COMMANDS)})\b[^\n`#]*", joined)
    return [shlex.split(call.split(" > ")[0])[1:] for call in calls]


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_an_example_parses(words: list[str]) -> None:
    if len(words) == 1:
        return  # only the name of the command
    context = click.Context(main, info_name="qcompress", **main.context_settings)
    command = main.get_command(context, words[0])
    assert command is not None
    command.make_context(words[0], words[1:], parent=context)


def test_the_examples_are_found() -> None:
    assert len(command_lines()) >= 7


def test_the_examples_in_toml_are_a_recipe_and_a_list_of_models(tmp_path: Path) -> None:
    recipe, models = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert recipe_from_table(tomllib.loads(recipe), "example.toml").gates.max_accuracy_drop == 0.01
    (tmp_path / "zoo.toml").write_text(models)
    (entry,) = read_manifest(tmp_path / "zoo.toml", vocabulary(), {})
    assert entry.options["--max-size-ratio"] == ("0.2",)


def test_make_targets_named_in_the_text_exist() -> None:
    makefile = (update_readme.ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)\b", HAND_WRITTEN, re.MULTILINE))
    assert {"demo", "test", "check", "docs"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


def test_files_named_in_the_text_exist() -> None:
    for name in re.findall(r"`((?:tests|sample_models|\.ci)/[\w./-]*)`", HAND_WRITTEN):
        assert (update_readme.ROOT / name).exists(), name
