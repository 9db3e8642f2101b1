"""Output error of pruned layers on rows that nothing was fitted on: by criterion, and with rounding.

    python tests/bench/pruning_arrays.py [--seeds 4] [--inputs 256] [--outputs 64] [--rows 4]

Layers are those of ``rounding.py``: weights heavy-tailed, inputs correlated. Each figure is the squared error of outputs over their
energy on 4,096 fresh rows, the mean of the seeds. A quarter of the rows (``--rows`` for each input) is held out for what is picked.
Gradients are those of outputs added up with random signs, so Taylor is Wanda ranked over all outputs.

The second table prunes and rounds: "knowing" rounds survivors with the mask, "unaware" rounds the pruned weight as if it were any
other and puts the zeros back, "zeros left" is the share of pruned numbers that are still 0 when they are not put back.

    python tests/bench/pruning_arrays.py --times      seconds of one large layer for each criterion, threads as the environment says
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from time import process_time

import numpy as np
from rounding import FRESH, Layer, make_layer

from qcompress.prune import prune_weight
from qcompress.quantize import Evidence, Gram, Layout, fit_weight
from qcompress.report import render_table
from qcompress.types import Array, Criterion, Pattern, Prune, Rounding, parse_scheme

SHARES = (0.3, 0.5, 0.7)
PATTERNS = ("unstructured", "2:4", "4:8", "block4")
SCHEMES = ("int8/channel", "int4/channel", "int4/block32", "codebook16/channel")
LARGE = ((1000, 1280), (576, 1536))


@dataclass(frozen=True)
class Case:
    """A layer, what is known about its inputs, its gradient, and rows to judge by."""

    layer: Layer
    evidence: Evidence
    gradient: Array
    fresh: Array

    def error(self, values: Array) -> float:
        """Squared error of the outputs over their energy."""
        exact = self.fresh @ self.layer.weight.T
        return float(np.square(self.fresh @ values.T - exact).sum() / np.square(exact).sum())


def cases(seeds: int, shape: tuple[int, int], rows: int) -> Iterator[Case]:
    """One layer for each seed."""
    outputs, inputs = shape
    for seed in range(seeds):
        layer = make_layer(seed, True, inputs, outputs)
        x, fresh = layer.draw(rows * inputs), layer.draw(FRESH)
        fit, held = x[len(x) // 4 :], x[: len(x) // 4]
        gram = Gram((fit.T @ fit / len(fit))[None], (held.T @ held / len(held))[None], len(fit), len(held))
        signs = np.random.default_rng(seed).standard_normal((len(x), outputs))
        gradient = np.sqrt(np.square(signs).T @ np.square(x) / len(x)).astype(np.float32)
        yield Case(layer, Evidence(Layout.OUT_IN, gram=gram), gradient, fresh)


def criteria(layers: list[Case], pattern: Pattern) -> list[tuple[str, ...]]:
    """A row for each criterion: error at each share, survivors as they are and solved again."""
    shares = (pattern.sparsity,) if pattern.is_fixed else SHARES
    lines = []
    for criterion in Criterion:
        figures = []
        for share in shares:
            for again in (False, True):
                prune = Prune(share, criterion, pattern, compensate=again)
                found = (prune_weight(case.layer.weight, prune, case.evidence, case.gradient)[0] for case in layers)
                figures.append(np.mean([case.error(values) for case, values in zip(layers, found, strict=True)]))
        lines.append((str(pattern), criterion.value, *(f"{figure:.4f}" for figure in figures)))
    return lines


def rounded(layers: list[Case], text: str) -> list[tuple[str, ...]]:
    """A row for each share: pruned alone, and rounded in each way."""
    scheme = parse_scheme(text).on_axis(1 if "block" in text else 0)  # type: ignore[union-attr]
    lines = []
    for share in SHARES:
        figures = []
        for case in layers:
            pruned, mask = prune_weight(case.layer.weight, Prune(share), case.evidence)
            nearest = fit_weight(pruned, scheme, Rounding.NEAREST, case.evidence, mask).dequantize()
            knowing = fit_weight(pruned, scheme, Rounding.FITTED, case.evidence, mask).dequantize()
            unaware = fit_weight(pruned, scheme, Rounding.FITTED, case.evidence).dequantize()
            back = np.where(mask, unaware, 0.0)
            figures.append([case.error(values) for values in (pruned, nearest, back, knowing)])
            figures[-1].append(float(np.mean(unaware[~mask] == 0.0)))
        means = np.mean(figures, axis=0)
        lines.append((text, f"{share:.0%}", *(f"{mean:.4f}" for mean in means[:-1]), f"{means[-1]:.0%}"))
    return lines


def times() -> list[tuple[str, ...]]:
    """Processor seconds of one large layer, half of it pruned."""
    lines = []
    for shape in LARGE:
        (case,) = cases(1, shape, 4)
        for criterion in (Criterion.MAGNITUDE, Criterion.WANDA, Criterion.OPTIMAL_BRAIN):
            start = process_time()
            prune_weight(case.layer.weight, Prune(0.5, criterion), case.evidence)
            lines.append((f"{shape[0]} x {shape[1]}", criterion.value, f"{process_time() - start:.1f}"))
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--outputs", type=int, default=64)
    parser.add_argument("--rows", type=int, default=4, help="rows for each input")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    if options.times:
        print(render_table("seconds, 50 % pruned", ("layer", "criterion", "seconds"), times(), "markdown"))
        return
    layers = list(cases(options.seeds, (options.outputs, options.inputs), options.rows))
    size = f"{options.inputs} inputs, {options.outputs} outputs, {options.seeds} seeds"
    for text in PATTERNS:
        pattern = Pattern.parse(text)
        shares = (pattern.sparsity,) if pattern.is_fixed else SHARES
        headings = [heading for share in shares for heading in (f"{share:.0%}", f"{share:.0%} solved")]
        print(
            render_table(f"{text}, {size}", ("pattern", "criterion", *headings), criteria(layers, pattern), "markdown"),
            flush=True,
        )
    lines = [line for text in SCHEMES for line in rounded(layers, text)]
    headings = ["scheme", "pruned", "float", "nearest", "unaware", "knowing", "zeros left"]
    print(render_table(f"pruned and rounded, {size}", headings, lines, "markdown"))


if __name__ == "__main__":
    main()
