"""Write the generated parts of the README: `python tests/update_readme.py` (`--demo` also measures)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click

from qcompress.cli import COMMANDS, main
from qcompress.errors import ExitCode
from qcompress.operators import support_rows
from qcompress.recipe import RECIPES, Recipe
from qcompress.report import render_table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PART = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
WIDTH = 100

MEANINGS = {
    ExitCode.DONE: "done, and every gate passed",
    ExitCode.GATE_FAILED: "a gate failed; the model is still written unless --discard-on-fail is given",
    ExitCode.USAGE: "the options are wrong or do not go together",
    ExitCode.UNUSABLE: "the model, the data, the recipe or the place for the output cannot be used",
    ExitCode.NOTHING_TO_COMPRESS: "nothing could be compressed, or the result would not be smaller",
    ExitCode.BUG: "a bug in qcompress; run again with -v and report it",
}


def exit_codes() -> str:
    """The table of exit codes."""
    rows = [(str(int(code)), MEANINGS[code]) for code in ExitCode]
    return render_table("", ("code", "meaning"), [*rows, ("130, 143", "interrupted by Ctrl-C or SIGTERM")], "markdown")


def recipes() -> str:
    """The table of recipes."""
    columns = ("recipe", "mode", "pruned", "weights", "bits on average", "activations", "ranges", "loss allowed")
    rows = [
        (name, r.mode, pruned(r), str(r.weights), r.bits or r.weights.bits, str(r.activations), r.ranges, f"{r.budget:g}")
        for name, r in RECIPES.items()
    ]
    return render_table("", columns, rows, "markdown")


def pruned(recipe: Recipe) -> str:
    """How much a recipe prunes."""
    if recipe.pruning.amount is None:
        return "-"
    return f"{recipe.pruning.amount:.0%} {'of multiply-adds' if recipe.pruning.pattern.channels else 'of weights'}"


def operators() -> str:
    """The support table."""
    return render_table("", ("operator", "forms", "remark"), support_rows(), "markdown")


def commands() -> str:
    """What `--help` says, for every command."""
    context = click.Context(main, info_name="qcompress", **main.context_settings)
    texts = []
    known: set[str | None] = set()
    """Options of the first command, compress."""
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        settings = {**command.context_settings, "terminal_width": WIDTH}
        if {option.name for option in command.params} == known:
            command = click.Command(
                name, help=f"{command.help}\n\n    The options are those of compress.", add_help_option=False
            )
        known = known or {option.name for option in command.params}
        text = command.get_help(click.Context(command, info_name=name, parent=context, **settings))
        texts.append(f"### qcompress {name}\n\n```text\n{text}\n```")
    return "\n\n".join(texts)


def demo() -> str:
    """What the demo prints."""
    done = subprocess.run(["make", "--silent", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    return f"```text\n{done.stdout.strip()}\n```"


def samples() -> str:
    """One line for every sample model."""
    command = [sys.executable, "tests/bench/zoo.py", "sample_models", "--format", "markdown"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return f"What `make zoo` printed for the sample models:\n\n{done.stdout.strip()}"


GENERATED: dict[str, Callable[[], str]] = {
    "exit-codes": exit_codes,
    "recipes": recipes,
    "operators": operators,
    "commands": commands,
}
"""The parts that are the same on every machine."""

MEASURED: dict[str, Callable[[], str]] = {"demo": demo, "samples": samples}
"""The parts with figures of one machine, made again only on request."""


def parts(text: str) -> dict[str, str]:
    """The generated parts of a text, as they are."""
    return {match["name"]: match["body"].strip() for match in PART.finditer(text)}


def updated(text: str, makers: dict[str, Callable[[], str]]) -> str:
    """The text with the parts of ``makers`` made again."""

    def again(match: re.Match[str]) -> str:
        body = makers[match["name"]]() if match["name"] in makers else match["body"].strip()
        return f"{match[1]}\n{body}\n\n{match[4]}" if body else match[0]

    return PART.sub(again, text)


if __name__ == "__main__":
    wanted = GENERATED | (MEASURED if "--demo" in sys.argv[1:] else {})
    README.write_text(updated(README.read_text(encoding="utf-8"), wanted), encoding="utf-8")
