"""Bundles of options that several commands share: one decorator and one frozen dataclass each."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qcompress.cli.guard import Talk, uninterrupted
from qcompress.cli.parameters import ImageSize, LayerScheme, LazyChoice, Numbers
from qcompress.errors import UsageError

if TYPE_CHECKING:
    from qcompress.cli.pruning import PruneChoice
    from qcompress.data import DataOptions
    from qcompress.pipeline import RunOptions
    from qcompress.recipe import Mode, Objective, RangeMethod, Recipe
    from qcompress.types import Rounding

Command = Callable[..., Any]

CONTEXT = {
    "auto_envvar_prefix": "QCOMPRESS",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
}
"""Settings of every command: options also come from the environment under one prefix."""


def bundle(name: str, kind: type[Any], *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds ``options`` to a command and hands their values over as ``name``, a dataclass ``kind``."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def call(*args: Any, **values: Any) -> Any:
            own = {item.name: values.pop(item.name) for item in fields(kind)}
            return function(*args, **{name: kind(**own)}, **values)

        command: Command = call
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """Which recipe, and what is different from it; None and empty leave the recipe's own value."""

    recipe: str
    mode: Mode | None
    objective: Objective | None
    weights: str | None
    layers: tuple[str, ...]
    activations: str | None
    ranges: RangeMethod | None
    bits: float | None
    rounding: Rounding | None
    sequential: bool | None
    portable: int | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    clip_weights: bool | None
    correct_bias: bool | None
    outputs: tuple[str, ...]

    def load(self, pruning: PruneChoice | None = None) -> Recipe:
        """The recipe with the changes applied, also those to what is pruned.

        Raises:
            RecipeError: no such recipe, or a value that is not possible.
        """
        from qcompress.recipe import load_recipe
        from qcompress.types import QuantScheme, parse_scheme

        changes = self.changes()
        for key, parse in (("weights", parse_scheme), ("activations", QuantScheme.parse)):
            if key in changes:
                changes[key] = parse(changes[key])
        recipe = load_recipe(self.recipe)
        if "layers" in changes:
            split = (text.rpartition("=") for text in changes["layers"])
            changes["layers"] = (*recipe.layers, *((layer, parse_scheme(scheme)) for layer, _, scheme in split))
        return replace(recipe if pruning is None else pruning.apply(recipe), **changes)

    def changes(self) -> dict[str, Any]:
        """The options that were given and differ from the recipe, by the recipe's field."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "recipe"}
        return {key: value for key, value in values.items() if value is not None and value != ()}


def _modes() -> type[StrEnum]:
    from qcompress.recipe import Mode

    return Mode


def _objectives() -> type[StrEnum]:
    from qcompress.recipe import Objective

    return Objective


def _range_methods() -> type[StrEnum]:
    from qcompress.recipe import RangeMethod

    return RangeMethod


def _roundings() -> type[StrEnum]:
    from qcompress.types import Rounding

    return Rounding


recipe_options = bundle(
    "recipe_choice",
    RecipeChoice,
    click.option("--recipe", default="int8", show_default=True, metavar="NAME|FILE.toml", help="What to do."),
    click.option("--mode", type=LazyChoice(_modes), help="How much of a layer becomes integer arithmetic."),
    click.option(
        "--objective", type=LazyChoice(_objectives), help="What mode auto makes as small as the limits on the others allow."
    ),
    click.option(
        "--weights", metavar="SCHEME", help="Weight scheme, for example int8/channel, int4/block32, codebook16 or float16."
    ),
    click.option(
        "--layer",
        "layers",
        type=LayerScheme(),
        multiple=True,
        help="Another scheme for these weights: name, glob or operator type. Repeatable, the last that fits counts.",
    ),
    click.option(
        "--bits",
        type=click.FloatRange(2, 8),
        metavar="B",
        help="Average width of the codes, those of --layer aside; each layer's is chosen by loss.",
    ),
    click.option("--rounding", type=LazyChoice(_roundings), help="How codes are chosen; by width and data if not given."),
    click.option(
        "--sequential/--no-sequential",
        default=None,
        help="Fit codes on what the compressed layers before give, or on the float model's tensors.",
    ),
    click.option("--activations", metavar="SCHEME", help="Activation scheme, for example uint8/asym or int8."),
    click.option("--ranges", type=LazyChoice(_range_methods), help="How an activation's range is chosen."),
    click.option(
        "--portable",
        type=click.IntRange(7),
        metavar="N",
        help="Use nothing newer than operator set N, for older runtimes.  [default: what the kernels need, 21 at most]",
    ),
    click.option(
        "--include", multiple=True, metavar="LAYER", help="Compress only these: name, glob or operator type. Repeatable."
    ),
    click.option("--exclude", multiple=True, metavar="LAYER", help="Keep these as they are. Repeatable."),
    click.option("--clip/--no-clip", "clip_weights", default=None, help="Search the best clip of each weight channel."),
    click.option(
        "--bias-correction/--no-bias-correction", "correct_bias", default=None, help="Undo the mean error of each channel."
    ),
    click.option(
        "--judge-output",
        "outputs",
        multiple=True,
        metavar="OUTPUT",
        help="Only this output of the model must stay close to the original's. Repeatable; all by default.",
    ),
)


@dataclass(frozen=True, slots=True)
class DataChoice:
    """How the data is read."""

    batch_size: int
    seed: int
    image_size: tuple[int, int] | None
    image_scale: float | None
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    image_layout: StrEnum | None
    image_resize: StrEnum | None
    image_colour: StrEnum | None

    def load(self) -> DataOptions:
        """The options of the data room.

        Raises:
            UsageError: a value that is not possible.
        """
        from qcompress.data import DataOptions, ImageOptions

        chosen = {item.name.removeprefix("image_"): getattr(self, item.name) for item in fields(self)}
        image = {item.name: chosen[item.name] for item in fields(ImageOptions) if chosen[item.name] is not None}
        return DataOptions(batch_size=self.batch_size, seed=self.seed, image=ImageOptions(**image))


def _layouts() -> type[StrEnum]:
    from qcompress.data import Layout

    return Layout


def _resizes() -> type[StrEnum]:
    from qcompress.data import Resize

    return Resize


def _colours() -> type[StrEnum]:
    from qcompress.data import Colour

    return Colour


data_options = bundle(
    "data_choice",
    DataChoice,
    click.option("--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Samples per feed."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn."),
    click.option("--image-size", type=ImageSize(), metavar="HxW", help="Image folders: pixels, if the model does not say."),
    click.option("--image-scale", type=float, help="Image folders: factor for pixels of 0..255.  [default: 1/255]"),
    click.option(
        "--image-mean", type=Numbers(), default=(0.0,), metavar="M[,M,M]", help="Image folders: subtracted after scaling."
    ),
    click.option(
        "--image-std", type=Numbers(), default=(1.0,), metavar="S[,S,S]", help="Image folders: divided by after that."
    ),
    click.option("--image-layout", type=LazyChoice(_layouts), help="Image folders: axis order, if the model does not tell."),
    click.option(
        "--image-resize", type=LazyChoice(_resizes), help="Image folders: how the size is reached.  [default: crop]"
    ),
    click.option("--image-colour", type=LazyChoice(_colours), help="Image folders: channel order.  [default: rgb]"),
)


@dataclass(frozen=True, slots=True)
class RunChoice:
    """How to run and what to measure."""

    threads: int
    held_out: float
    eval_samples: int | None
    metric: str | None
    latency: bool

    def load(self, data: DataOptions, discard_on_fail: bool = False) -> RunOptions:
        """The options of the pipeline.

        Raises:
            UsageError: the metric is not written as module:function.
            DataError: there is no such metric; better told now than after the calibration.
        """
        from qcompress.data import load_metric
        from qcompress.pipeline import RunOptions

        if self.metric is not None and ":" not in self.metric:
            raise UsageError(
                f"--metric {self.metric!r} is not module:function", "write for example --metric my_metrics:bleu"
            )
        if self.metric is not None:
            load_metric(self.metric)
        options = RunOptions(
            threads=self.threads,
            held_out=self.held_out,
            data=data,
            metric=self.metric,
            eval_samples=self.eval_samples,
            discard_on_fail=discard_on_fail,
        )
        return options if self.latency else replace(options, latency_seconds=0.0)


threads_option = click.option(
    "--threads", type=click.IntRange(0, 256), default=0, show_default=True, help="Threads of the runtime; 0: all cores."
)

held_out_option = click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.25,
    show_default=True,
    help="Part of --data kept for choosing forms and, without --eval-data, for measuring.",
)

run_options = bundle(
    "run_choice",
    RunChoice,
    threads_option,
    held_out_option,
    click.option("--eval-samples", type=click.IntRange(1), metavar="N", help="Measure on at most N samples."),
    click.option("--metric", metavar="MODULE:FUNCTION", help="Your own score of (outputs, labels); higher is better."),
    click.option("--latency/--no-latency", default=True, show_default=True, help="Measure the speed of both models."),
)


@dataclass(frozen=True, slots=True)
class ReportChoice:
    """Where the report goes and how it looks on stdout."""

    format: str
    report: tuple[Path, ...]


format_option = click.option(
    "--format",
    type=click.Choice(["table", "json", "markdown"]),
    default="table",
    show_default=True,
    help="Form of the result on stdout.",
)

report_options = bundle(
    "report_choice",
    ReportChoice,
    format_option,
    click.option(
        "--report",
        type=click.Path(dir_okay=False, path_type=Path),
        multiple=True,
        metavar="FILE",
        help="Also write the report here; .json, .md or .txt decides the form. Repeatable.",
    ),
)


def _set_talk(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    talk = context.ensure_object(Talk)
    if wanted:
        setattr(talk, str(parameter.name), True)
    if wanted and parameter.name == "supervised":
        from qcompress.cli.supervised import end_with_supervisor

        end_with_supervisor()
    if talk.quiet and talk.verbose:
        raise click.UsageError("--quiet and --verbose do not go together", context)


def talk_options(function: Command) -> Command:
    """Add ``--quiet`` and ``--verbose``; the command gets a ``Talk`` as its first argument."""
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_talk,
        help="Errors only; --format json still prints.",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_talk,
        help="Say more; tracebacks on errors.",
    )
    supervised = click.option(
        "--supervised",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        hidden=True,
        callback=_set_talk,
        help="Of a batch: tell the supervisor on stdout, end with it.",
    )

    @functools.wraps(function)
    def call(*args: Any, **values: Any) -> Any:
        talk = click.get_current_context().ensure_object(Talk)
        with uninterrupted():
            importlib.import_module("qcompress.pipeline")  # with all native libraries
        with quiet_libraries(talk):
            return function(talk, *args, **values)

    return quiet(verbose(supervised(call)))


@contextmanager
def quiet_libraries(talk: Talk) -> Iterator[None]:
    """Keep what other libraries log off stderr, unless ``--verbose`` asks for it."""
    import logging

    handler = logging.NullHandler()
    if not talk.verbose:
        logging.getLogger().addHandler(handler)  # with any handler, logging does not fall back to stderr
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
