"""Option values: how they are written, and that the help's defaults are the library's."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from qcompress.cli import COMMANDS, main
from qcompress.cli.limits import GateChoice
from qcompress.cli.options import DataChoice, RecipeChoice, RunChoice
from qcompress.cli.parameters import ImageSize, LayerScheme, LazyChoice, Numbers, Share
from qcompress.data import DataOptions, ImageOptions
from qcompress.errors import RecipeError, UsageError
from qcompress.recipe import RECIPES, Mode, RangeMethod
from qcompress.results import Gates
from qcompress.types import FloatScheme, QuantScheme


def parsed(name: str, *words: str) -> dict[str, object]:
    """The option values of a command, as click parses the words."""
    context = click.Context(main, info_name="qcompress", **main.context_settings)
    command = main.get_command(context, name)
    assert command is not None
    return command.make_context(name, list(words), parent=context).params


def chosen(kind: type, *words: str, name: str = "compress") -> object:
    """The bundle ``kind`` of a compress command with the words."""
    values = parsed(name, "m.onnx", "-o", "o.onnx", *words)
    return kind(**{key: values[key] for key in kind.__dataclass_fields__})


@pytest.mark.parametrize(("text", "value"), [("1%", 0.01), ("0.01", 0.01), ("35 %", 0.35), ("0", 0.0), ("100%", 1.0)])
def test_shares(text: str, value: float) -> None:
    assert Share().convert(text, None, None) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "one", "-1%", "nan", "inf"])
def test_what_is_not_a_share(text: str) -> None:
    with pytest.raises(click.BadParameter, match="1%"):
        Share().convert(text, None, None)


@pytest.mark.parametrize(("text", "value"), [("224", (224, 224)), ("224x320", (224, 320)), ("32X16", (32, 16))])
def test_image_sizes(text: str, value: tuple[int, int]) -> None:
    assert ImageSize().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "x", "224x", "axb", "1x2x3", "-1x3", "2.5"])
def test_what_is_not_an_image_size(text: str) -> None:
    if text == "224x":  # a trailing x changes nothing
        assert ImageSize().convert(text, None, None) == (224, 224)
    else:
        with pytest.raises(click.BadParameter, match="224x320"):
            ImageSize().convert(text, None, None)


def test_number_lists() -> None:
    assert Numbers().convert("0.485, 0.456,0.406", None, None) == (0.485, 0.456, 0.406)
    with pytest.raises(click.BadParameter):
        Numbers().convert("0.4;0.5", None, None)


def test_a_wrong_choice_names_the_nearest() -> None:
    with pytest.raises(click.BadParameter, match="did you mean entropy"):
        LazyChoice(lambda: RangeMethod).convert("entrpoy", None, None)
    assert LazyChoice(lambda: Mode).convert("STATIC", None, None) is Mode.STATIC


def test_without_options_the_recipe_is_untouched() -> None:
    for name, recipe in RECIPES.items():
        assert chosen(RecipeChoice, "--recipe", name).load() == recipe


def test_recipe_options_change_the_recipe() -> None:
    words = [
        "--mode",
        "static",
        "--weights",
        "int8",
        "--activations",
        "int8/asym",
        "--ranges",
        "minmax",
        "--include",
        "Conv",
    ]
    words += ["--exclude", "/head/*", "--exclude", "Gemm", "--no-clip", "--no-bias-correction"]
    recipe = chosen(RecipeChoice, *words).load()
    assert (recipe.mode, recipe.ranges, recipe.include, recipe.exclude) == (
        "static",
        "minmax",
        ("Conv",),
        ("/head/*", "Gemm"),
    )
    assert (recipe.weights, recipe.activations) == (QuantScheme.parse("int8"), QuantScheme.parse("int8/asym"))
    assert (recipe.clip_weights, recipe.correct_bias) == (False, False)


def test_layers_get_schemes_of_their_own_after_those_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[layers]\n"head*" = "int8"\nGather = "float16"\n')
    recipe = chosen(RecipeChoice, "--recipe", str(tmp_path / "own.toml"), "--layer", "a=b=int4/block32").load()
    assert recipe.layers == (
        ("head*", QuantScheme.parse("int8")),
        ("Gather", FloatScheme("float16")),
        ("a=b", QuantScheme.parse("int4/block32")),
    )


@pytest.mark.parametrize("words", ["head", "=int8", "head="])
def test_a_layer_without_a_scheme_is_a_usage_error(words: str) -> None:
    with pytest.raises(click.BadParameter, match="not a layer and a scheme"):
        LayerScheme().convert(words, None, None)
    assert LayerScheme().convert("a=b=int8", None, None) == "a=b=int8"


def test_a_bad_scheme_is_a_recipe_error() -> None:
    with pytest.raises(RecipeError, match="not a scheme"):
        chosen(RecipeChoice, "--weights", "int8/chanel").load()
    with pytest.raises(RecipeError, match="not a scheme"):
        chosen(RecipeChoice, "--layer", "head=int8/chanel").load()
    with pytest.raises(RecipeError, match="saves nothing"):
        chosen(RecipeChoice, "--layer", "head=float32").load()


def test_default_data_options_are_the_librarys() -> None:
    assert chosen(DataChoice).load() == DataOptions()


def test_image_options_reach_the_data_room() -> None:
    words = ["--image-size", "32x48", "--image-scale", "1", "--image-mean", "1,2,3", "--image-std", "4,5,6"]
    words += ["--image-layout", "nhwc", "--image-resize", "stretch", "--image-colour", "bgr"]
    image = chosen(DataChoice, *words).load().image
    assert image == ImageOptions(
        (32, 48), 1.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), *map(type_of, ("layout", "resize", "colour"), words[9::2])
    )


def type_of(field: str, value: str) -> object:
    """The member of the data room's enumeration."""
    from qcompress.data import Colour, Layout, Resize

    return {"layout": Layout, "resize": Resize, "colour": Colour}[field](value)


def test_default_run_options_are_the_librarys() -> None:
    from qcompress.pipeline import RunOptions

    assert chosen(RunChoice).load(DataOptions()) == RunOptions()


def test_without_latency_no_time_is_spent_on_it() -> None:
    assert chosen(RunChoice, "--no-latency").load(DataOptions()).latency_seconds == 0


def test_gates_of_the_command_line_replace_those_of_the_recipe() -> None:
    gates = chosen(GateChoice, "--max-accuracy-drop", "1%", "--min-sqnr", "20").load(
        Gates(max_accuracy_drop=0.5, min_speedup=2.0)
    )
    assert gates == Gates(max_accuracy_drop=0.01, min_speedup=2.0, min_sqnr=20.0)


def test_a_drop_of_points_is_told_from_a_share() -> None:
    with pytest.raises(UsageError) as caught:
        chosen(GateChoice, "--max-accuracy-drop", "1").load(Gates())
    assert "1%" in caught.value.hint
    assert chosen(GateChoice, "--max-accuracy-drop", "1").load(Gates(), "my:perplexity").max_accuracy_drop == 1


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPRESS_RECIPE", "int8-weights")
    monkeypatch.setenv("QCOMPRESS_EXCLUDE", "Conv Gemm")
    monkeypatch.setenv("QCOMPRESS_MAX_ACCURACY_DROP", "2%")
    monkeypatch.setenv("QCOMPRESS_LATENCY", "0")
    values = parsed("compress", "m.onnx", "-o", "o.onnx", "--exclude", "LSTM")
    assert (values["recipe"], values["max_accuracy_drop"], values["latency"]) == ("int8-weights", 0.02, False)
    assert values["exclude"] == ("LSTM",)
    assert parsed("plan", "m.onnx")["exclude"] == ("Conv", "Gemm")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    command = main.get_command(click.Context(main, **main.context_settings), name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
