"""Output error of roundings on rows they were not fitted on, over how many rows they were.

    python tests/bench/rounding.py [SCHEME...] [--seeds 8] [--inputs 256] [--outputs 64]

Weights are heavy-tailed, inputs correlated (a quarter as many causes as inputs) or nearly not. Each figure is the squared error
of outputs over their energy on 4,096 fresh rows, the mean of the seeds, as a share of nearest rounding's in the same scheme. A
quarter of the rows is held out where a rounding asks for it; GPTQ is fitted on all of them, with its usual damping of 0.01.
HQQ sees no data; where a scheme is symmetric it clips. Codebooks are fitted to the weights alone by HQQ and nearest. "worst" is
the largest ratio of fitted to clipped error over the seeds. "unaided" is fitted without held-out rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompress.quantize import Evidence, Gram, Layout, fit_weight
from qcompress.report import render_table
from qcompress.types import Array, Rounding, Scheme, parse_scheme

SCHEMES = ("int4/block32", "uint4/asym/block32", "int4/channel", "codebook16/channel")
ROWS_PER_INPUT = (0.5, 1, 2, 4, 16)
HEADINGS = ("inputs", "rows / inputs", "nearest", "hqq", "clip", "gptq", "fitted", "unaided", "worst")
FRESH = 4096


@dataclass(frozen=True)
class Layer:
    """A weight, (outputs, inputs), and where its inputs come from: a count of rows -> (rows, inputs)."""

    weight: Array
    draw: Callable[[int], Array]


def make_layer(seed: int, correlated: bool, inputs: int = 256, outputs: int = 64) -> Layer:
    """A synthetic layer: outputs, inputs and rows of different sizes."""
    random = np.random.default_rng(seed)
    sizes = np.exp(0.4 * random.standard_normal((outputs, 1)))
    weight = (0.05 * sizes * random.standard_t(5, (outputs, inputs))).astype(np.float32)
    causes, noise = (inputs // 4, 0.35) if correlated else (inputs, 1.0)
    mixing = random.standard_normal((causes, inputs)) * (1.0 if correlated else 0.3) / np.sqrt(causes)
    amplitudes = np.exp(0.7 * random.standard_normal(inputs))

    def draw(rows: int) -> Array:
        x = random.standard_normal((rows, causes)) @ mixing + noise * random.standard_normal((rows, inputs))
        return np.asarray(x * amplitudes * np.exp(0.3 * random.standard_normal((rows, 1))))

    return Layer(weight, draw)


def errors(layer: Layer, scheme: Scheme, rows: int) -> dict[str, float]:
    """Rounding -> relative squared error of outputs on fresh rows."""
    x, fresh = layer.draw(rows), layer.draw(FRESH)
    held = rows // 4

    def gram(part: Array) -> Array:
        return np.asarray(part.T @ part / len(part))[None]

    unaided = Evidence(Layout.OUT_IN, gram=Gram(gram(x), None, rows))
    aided = Evidence(Layout.OUT_IN, gram=Gram(gram(x[held:]), gram(x[:held]), rows - held, held))
    found = {rounding.value: fit_weight(layer.weight, scheme, rounding, unaided) for rounding in Rounding}
    found["unaided"] = found["fitted"]
    found["fitted"] = fit_weight(layer.weight, scheme, Rounding.FITTED, aided)
    energy = np.square(fresh @ layer.weight.T).sum()
    return {
        name: float(np.square(fresh @ (tensor.dequantize() - layer.weight).T).sum() / energy)
        for name, tensor in found.items()
    }


def table(text: str, seeds: int, inputs: int, outputs: int) -> list[tuple[str, ...]]:
    """One row for each kind of inputs and count of rows."""
    scheme = parse_scheme(text).on_axis(1 if "block" in text else 0)  # type: ignore[union-attr]
    lines = []
    for correlated in (True, False):
        for ratio in ROWS_PER_INPUT:
            runs = [
                errors(make_layer(seed, correlated, inputs, outputs), scheme, int(ratio * inputs)) for seed in range(seeds)
            ]
            means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
            shares = (f"{means[name] / means['nearest']:.3f}" for name in ("hqq", "clip", "gptq", "fitted", "unaided"))
            worst = max(run["fitted"] / run["clip"] for run in runs)
            kind = "correlated" if correlated else "nearly uncorrelated"
            lines.append((kind, f"{ratio:g}", f"{means['nearest']:.5f}", *shares, f"{worst:.3f}"))
    return lines


def main() -> None:
    """Print a table for each scheme."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("schemes", nargs="*", default=SCHEMES)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--outputs", type=int, default=64)
    options = parser.parse_args()
    for text in options.schemes:
        title = f"{text}, {options.inputs} inputs, {options.outputs} outputs, {options.seeds} seeds"
        rows = table(text, options.seeds, options.inputs, options.outputs)
        print(render_table(title, HEADINGS, rows, "markdown"), flush=True)


if __name__ == "__main__":
    main()
