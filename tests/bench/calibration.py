"""Calibration against plain inference and against the stock tool, on the same batches, each in a process of its own.

    python tests/bench/calibration.py MODEL.onnx --data feeds.npz [--feeds 16] [--resize 640] [--stock] [--long]

``feeds.npz``: one array per model input whose first axis counts feeds; ``feed[i]`` is given to the model as it is.
``--resize`` tiles images to a square of that side. ``--stock`` also runs quantize_static with Percentile. ``--long`` also
compares the peak of 16 and 256 feeds. Peak memory is the resident set of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from qcompress.calibrate import CalibrationSettings, collect, observe_shapes
from qcompress.decisions import Keep
from qcompress.graph import Model
from qcompress.operators import find_layers
from qcompress.pipeline import load_prepared
from qcompress.plan.choose import PREFERENCES, choose_forms, static_nodes
from qcompress.plan.fit import needs_of
from qcompress.plan.placement import place
from qcompress.progress import SILENT
from qcompress.recipe import load_recipe
from qcompress.runtime import SessionSettings, open_session
from qcompress.types import Array, StatisticsNeeds


@dataclass(frozen=True)
class OneFeed:
    """A batch of one feed."""

    feed: dict[str, Array]
    samples: int = 1


def feeds_of(path: Path, count: int, side: int) -> Iterator[dict[str, Array]]:
    """``count`` feeds, from the start again when there are fewer; read as they are needed."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    available = min(len(array) for array in arrays.values())
    for index in range(count):
        feed = {name: array[index % available] for name, array in arrays.items()}
        yield {name: tiled(array, side) if side and array.ndim == 4 else array for name, array in feed.items()}


def tiled(image: Array, side: int) -> Array:
    """(1, C, H, W) repeated and cut to (1, C, side, side)."""
    repeats = (1, 1, -(-side // image.shape[2]), -(-side // image.shape[3]))
    return np.ascontiguousarray(np.tile(image, repeats)[:, :, :side, :side])


def planned_needs(model: Model, feed: dict[str, Array]) -> StatisticsNeeds:
    """What the default recipe asks for when it takes static ranges wherever it can."""
    recipe = load_recipe("int8")
    layers, shapes = find_layers(model), observe_shapes(model, feed)
    chosen = choose_forms(layers, PREFERENCES[recipe.mode][0], recipe, shapes)
    placement = place(model, static_nodes(model, layers, chosen, recipe.mode), shapes)
    taken = [layer for layer in layers if not isinstance(chosen[layer.name], Keep)]
    return needs_of(taken, [placement], recipe)


def run_plain(model: Path, feeds: Iterator[dict[str, Array]], threads: int) -> dict[str, float]:
    """Load and run."""
    start = time.perf_counter()
    session = open_session(model, SessionSettings(threads=threads))
    opened = time.perf_counter()
    count = 0
    for feed in feeds:
        session.run(feed)
        count += 1
    end = time.perf_counter()
    return {"seconds": end - start, "a_feed": (end - opened) / count}


def run_ours(model: Path, feeds: Iterator[dict[str, Array]], threads: int) -> dict[str, float]:
    """Calibrate the prepared model as the pipeline does; the time is that of calibration, the peak that of everything."""
    prepared = load_prepared(model)
    first = next(feeds)
    needs = planned_needs(prepared, first)
    settings = CalibrationSettings(threads=threads, shapes=observe_shapes(prepared, first))
    start = time.perf_counter()
    collect(prepared, needs, map(OneFeed, chain([first], feeds)), settings, SILENT)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "ranges": len(needs.ranges), "moments": len(needs.moments)}


def run_stock(model: Path, feeds: Iterator[dict[str, Array]], threads: int) -> dict[str, float]:
    """The calibration part of quantize_static is nearly all of its time and all of its memory."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Array] | None:
            return next(feeds, None)

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            str(model),
            str(Path(folder) / "quantized.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            calibrate_method=CalibrationMethod.Percentile,
        )
    return {"seconds": time.perf_counter() - start}


WORK = {"plain": run_plain, "ours": run_ours, "stock": run_stock}


def child(arguments: argparse.Namespace) -> None:
    """One measurement; the figures go to standard output as JSON."""
    feeds = feeds_of(arguments.data, arguments.feeds, arguments.resize)
    figures = WORK[arguments.child](arguments.model, feeds, arguments.threads)
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(figures))


def measure(kind: str, arguments: argparse.Namespace, feeds: int, repeats: int = 3) -> dict[str, float]:
    """The fastest of some runs, each in a process of its own: other work on the machine only ever adds time."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        command = [sys.executable, __file__, str(arguments.model), "--data", str(arguments.data), "--child", kind]
        command += ["--feeds", str(feeds), "--resize", str(arguments.resize), "--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            print(f"{kind:8} failed: {lines[-1] if lines else done.returncode}")
            return {}
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        if not best or figures["seconds"] < best["seconds"]:
            best = figures
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--feeds", type=int, default=16)
    parser.add_argument("--resize", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--child", choices=sorted(WORK))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    plain = measure("plain", arguments, arguments.feeds, arguments.repeats)
    ours = measure("ours", arguments, arguments.feeds, arguments.repeats)
    if not plain or not ours:
        sys.exit(1)
    line = "{:8} {:8.2f} s {:8.0f} MB"
    print(f"{arguments.model.name}: {arguments.feeds} feeds, {1e3 * plain['a_feed']:.1f} ms a feed")
    print(line.format("plain", plain["seconds"], plain["peak_mb"]))
    print(
        line.format("ours", ours["seconds"], ours["peak_mb"]),
        f"  time x{ours['seconds'] / plain['seconds']:.2f} of plain (bar 1.5),",
        f"peak {ours['peak_mb']:.0f} of {1.4 * plain['peak_mb'] + 100:.0f} MB allowed;",
        f"{ours['ranges']} ranges, {ours['moments']} moments",
    )
    if arguments.stock and (stock := measure("stock", arguments, arguments.feeds, 1)):
        print(
            line.format("stock", stock["seconds"], stock["peak_mb"]),
            f"  ours x{stock['seconds'] / ours['seconds']:.1f} faster (bar 4), x{stock['peak_mb'] / ours['peak_mb']:.1f} lighter (bar 8)",
        )
    if arguments.long:
        few, many = (measure("ours", arguments, count, 1)["peak_mb"] for count in (16, 256))
        print(f"ours: peak {few:.0f} MB at 16 feeds, {many:.0f} MB at 256")


if __name__ == "__main__":
    main()
