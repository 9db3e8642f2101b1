"""The command line: words in, exit code out; every command is one file, imported when it is called."""

from __future__ import annotations

import click

from qcompress.cli.guard import GuardedGroup

COMMANDS = {
    "compress": "Write a smaller model, and report what it cost.",
    "batch": "Compress many models, each in a process of its own.",
    "prune": "Write a model with fewer weights: zeros left out, or whole channels cut out.",
    "inspect": "Show what can be compressed, and why the rest cannot.",
    "compare": "Report on an existing pair of models.",
    "plan": "Write down what compress would do, to be replayed.",
    "sensitivity": "Rank the layers by what compressing each alone would lose.",
    "operators": "List the operators that can be compressed.",
}
"""The commands (each the function of that name in the file of that name) and their line in the help, in its order."""


class _Commands(GuardedGroup):
    """The commands of the table above; the help shows them without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        command: click.Command = getattr(import_module(f"qcompress.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from qcompress import __version__

        click.echo(f"qcompress {__version__}")
        context.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every option can also be set in the environment: QCOMPRESS_RECIPE for --recipe. "
    "Exit codes: 0 done, 1 a gate failed, 2 wrong usage, 3 model, data or recipe unusable, "
    "4 nothing to compress, 70 a bug in qcompress.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version.")
def main() -> None:
    """Compress ONNX models and say what it cost: size, latency and accuracy, with gates for CI."""
