"""Prune models by every criterion and show the metric beside each other, the weights that stay solved again or not.

    python tests/bench/pruning.py sample_models --only digits_cnn
    python tests/bench/pruning.py --zoo ZOO --models MODELS --only effnet_lite0,minilm_l3 [--shares .3,.5,.7]
    python tests/bench/pruning.py sample_models --only digits_cnn --channels .15,.3

Models and data as ``zoo.py`` takes them. Every layer loses the same share, so that nothing but the criteria differs; the row
``measured`` spreads the share of optimal-brain by measured loss, as the command does. With ``--channels``: channels of so many
multiply-adds cut out, with and without reconstruction, and the speed-up beside the float model, in turns.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo import Case, cases, scored, timed

from qcompress import RunOptions
from qcompress.graph import save_model
from qcompress.pipeline import load_prepared
from qcompress.pipeline.opening import open_parts, plan_settings
from qcompress.planning import open_workplace
from qcompress.planning.pruning import prune_model
from qcompress.progress import SILENT
from qcompress.recipe import RECIPES, Pruning
from qcompress.report import render_table
from qcompress.types import CHANNELS, Criterion, Spread


def pruned(case: Case, pruning: Pruning, target: Path, threads: int) -> tuple[str, ...]:
    """Write the pruned float model; what there is to say about it."""
    recipe, options = replace(RECIPES["prune"], pruning=pruning), RunOptions(threads=threads)
    prepared = load_prepared(case.model, recipe)
    settings = plan_settings(prepared, recipe, options)
    work = open_workplace(prepared, recipe, open_parts(prepared, str(case.calib), options), settings, SILENT)
    found = prune_model(work, settings)
    save_model(found.model, target)
    return found.notes


def metric_of(case: Case, model: Path, threads: int) -> float:
    """The first metric of the model."""
    name, _, found = scored(case, model, threads)
    return found[name]


def by_criterion(case: Case, shares: list[float], folder: Path, threads: int) -> list[tuple[str, ...]]:
    """One row a criterion: the metric for each share, plain and solved again."""
    rows = []
    plans = [(criterion.value, criterion, Spread.LAYER) for criterion in Criterion]
    for title, criterion, spread in [*plans, ("measured", Criterion.OPTIMAL_BRAIN, Spread.MEASURED)]:
        row = [title]
        for share in shares:
            for again in (False, True):
                if spread is Spread.MEASURED and not again:
                    row.append("-")
                    continue
                target = folder / f"{case.name}.onnx"
                pruned(case, Pruning(amount=share, criterion=criterion, spread=spread, compensate=again), target, threads)
                row.append(f"{metric_of(case, target, threads):.4f}")
                print(case.name, title, share, "solved" if again else "plain", row[-1], file=sys.stderr, flush=True)
        rows.append(tuple(row))
    return rows


def by_channels(case: Case, amount: float, folder: Path, threads: int) -> tuple[str, ...]:
    """The metric after plain removal and after reconstruction, and how fast the model is then."""
    row = [case.name, f"{amount:.0%}"]
    target = folder / f"{case.name}.onnx"
    for again in (False, True):
        notes = pruned(case, Pruning(amount=amount, pattern=CHANNELS, compensate=again), target, threads)
        row.append(f"{metric_of(case, target, threads):.4f}")
        print(case.name, amount, notes[0], row[-1], file=sys.stderr, flush=True)
    return (*row, f"{timed(case, target, threads)[0]:.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of NAME.onnx with NAME.calib.npz and NAME.eval.npz")
    parser.add_argument("--zoo", type=Path, help="folder of evals.py and data/")
    parser.add_argument("--models", type=Path, help="folder of the zoo's models")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--shares", default=".3,.5,.7")
    parser.add_argument("--channels", default="", help="shares of multiply-adds to cut, instead of the table of criteria")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        found = cases(options)
        if options.channels:
            amounts = [float(part) for part in options.channels.split(",")]
            rows = [by_channels(case, amount, Path(folder), options.threads) for case in found for amount in amounts]
            columns = ("model", "fewer multiply-adds", "removed", "solved again", "speed-up")
            print(render_table("Channels", columns, rows, "markdown", width=120))
            return
        shares = [float(part) for part in options.shares.split(",")]
        for case in found:
            columns = ("criterion", *(f"{share:.0%} {how}" for share in shares for how in ("plain", "solved")))
            title = f"{case.name}, float {metric_of(case, case.model, options.threads):.4f}"
            rows = by_criterion(case, shares, Path(folder), options.threads)
            print(render_table(title, columns, rows, "markdown", width=120), flush=True)


if __name__ == "__main__":
    main()
