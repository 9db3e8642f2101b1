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
from pathlib import Path
from typing import Any

import numpy as np

from qcompress.calibrate import CalibrationSettings, collect
from qcompress.graph import Model, load_model
from qcompress.progress import SILENT
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


def typical_needs(model: Model) -> StatisticsNeeds:
    """What int8 compression asks for: inputs and outputs of linear layers, sums, products and concatenations."""
    ranges: set[str] = set()
    moments: dict[str, int] = {}
    for node in model.graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            found = [value.name for value in node.inputs[:2] if value is not None and not constant(value)]
            ranges.update(found)
            if len(found) == 1:
                moments[found[0]] = -1 if node.op_type == "MatMul" else 1
            users = [use.node for use in node.outputs[0].uses() if use.node.op_type in ("Relu", "Clip")]
            ranges.update(value.outputs[0].name for value in users or [node])
        elif node.op_type in ("Add", "Mul", "Concat") and floating(node):
            ranges.add(node.outputs[0].name)
    return StatisticsNeeds(frozenset(ranges), moments)


def constant(value: Any) -> bool:
    """Whether the value is a weight."""
    producer = value.producer()
    return (
        value.const_value is not None or value.is_initializer() or (producer is not None and producer.op_type == "Constant")
    )


def floating(node: Any) -> bool:
    """Whether the node computes on more than shapes: an operand comes from a layer, not from Shape or integers."""
    dtype = node.outputs[0].dtype
    integer = dtype is not None and not dtype.is_floating_point()
    return not integer and all(shape_free(value, 6) for value in node.inputs if value is not None)


def shape_free(value: Any, depth: int) -> bool:
    producer = value.producer()
    if producer is None or depth == 0:
        return value.dtype is None or value.dtype.is_floating_point()
    if producer.op_type in ("Shape", "Size"):
        return False
    return all(shape_free(item, depth - 1) for item in producer.inputs[:1] if item is not None)


def run_plain(model: Path, feeds: Iterator[dict[str, Array]], threads: int) -> dict[str, float]:
    session = open_session(model, SessionSettings(threads=threads))
    loaded = time.perf_counter()
    count = 0
    for feed in feeds:
        session.run(feed)
        count += 1
    return {"run": time.perf_counter() - loaded, "feeds": count}


def run_ours(model: Path, feeds: Iterator[dict[str, Array]], threads: int) -> dict[str, float]:
    loaded = load_model(model)
    needs = typical_needs(loaded)
    collect(loaded, needs, map(OneFeed, feeds), CalibrationSettings(threads=threads), SILENT)
    return {"ranges": len(needs.ranges), "moments": len(needs.moments)}


def run_stock(model: Path, feeds: Iterator[dict[str, Array]], threads: int) -> dict[str, float]:
    """The calibration part of quantize_static is nearly all of its time and all of its memory."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Array] | None:
            return next(feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            str(model),
            str(Path(folder) / "quantized.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            calibrate_method=CalibrationMethod.Percentile,
        )
    return {}


WORK = {"plain": run_plain, "ours": run_ours, "stock": run_stock}


def child(arguments: argparse.Namespace) -> None:
    """One measurement; the figures go to standard output as JSON."""
    feeds = feeds_of(arguments.data, arguments.feeds, arguments.resize)
    start = time.perf_counter()
    figures = WORK[arguments.child](arguments.model, feeds, arguments.threads)
    figures["seconds"] = time.perf_counter() - start
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
    print(f"{arguments.model.name}: {arguments.feeds} feeds, {1e3 * plain['run'] / plain['feeds']:.1f} ms a feed")
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
