"""Time of float and integer kernels, behind the constants of qcompress/plan/worth.py.

    python tests/bench/kernels.py [--runs 30]

Every shape is one small model, run on one thread; times are medians of onnxruntime's own profile. It prints picoseconds per
multiply-add in float and in integers, and per element of QuantizeLinear, DequantizeLinear and the Transposes between the
layouts, then the constants these figures suggest, beside the ones in use. Other work on the machine shows: run it alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from onnx import numpy_helper, parser

from qcompress.plan import worth
from qcompress.report import render_table


@dataclass(frozen=True)
class Shape:
    """A convolution of ``side`` x ``side`` pixels, or a product of ``rows`` rows where ``rows`` is given."""

    inputs: int
    outputs: int
    kernel: int = 1
    side: int = 1
    group: int = 1
    rows: int = 0

    @property
    def feed(self) -> tuple[int, ...]:
        return (self.rows, self.inputs) if self.rows else (1, self.inputs, self.side, self.side)

    @property
    def weight(self) -> tuple[int, ...]:
        window = (self.outputs, self.inputs // self.group, self.kernel, self.kernel)
        return (self.inputs, self.outputs) if self.rows else window

    def __str__(self) -> str:
        if self.rows:
            return f"product {self.rows}x{self.inputs} @ {self.inputs}x{self.outputs}"
        return f"{self.inputs} to {self.outputs}, {self.kernel}x{self.kernel}, {self.side} px, {self.group} groups"


DENSE = ((32, 64, 1, 56), (64, 64, 1, 28), (256, 256, 1, 14), (512, 512, 1, 7), (32, 32, 3, 56), (128, 128, 3, 14))
FEW = ((3, 32, 3, 112), (4, 16, 3, 96), (8, 8, 3, 96), (8, 24, 1, 48), (12, 24, 3, 48))
DEPTHWISE = ((32, 32, 3, 56, 32), (128, 128, 3, 28, 128), (64, 64, 5, 28, 64), (512, 512, 3, 14, 512))
PRODUCTS = ((64, 64, 1, 1, 1, 256), (384, 384, 1, 1, 1, 48), (384, 384, 1, 1, 1, 256), (384, 1536, 1, 1, 1, 256))
TINY = Shape(16, 16)
"""So small that what remains is the cost of a call."""

INTEGER = """
    xq = QuantizeLinear(x, xs, xz)  xd = DequantizeLinear(xq, xs, xz)  wd = DequantizeLinear<axis = {axis}>(w8, ws, wz)
    r = {layer}(xd, wd)  rq = QuantizeLinear(r, ys, yz)  y = DequantizeLinear(rq, ys, yz)"""


def model_of(shape: Shape, integer: bool) -> bytes:
    """One layer, in float or between QuantizeLinear and DequantizeLinear."""
    weight = np.random.default_rng(0).standard_normal(shape.weight).astype(np.float32)
    sides = f"kernel_shape = [{shape.kernel}, {shape.kernel}], pads = {[shape.kernel // 2] * 4}, group = {shape.group}"
    layer = "MatMul" if shape.rows else f"Conv<{sides}>"
    body = INTEGER.format(layer=layer, axis=int(bool(shape.rows))) if integer else f"y = {layer}(x, w)"
    dims, rank = ", ".join(map(str, shape.feed)), ", ".join("ABCD"[: len(shape.feed)])
    text = f'<ir_version: 8, opset_import: ["": 13]> one (float[{dims}] x) => (float[{rank}] y) {{{body}}}'
    per_channel = np.full(shape.outputs, 1 / 30, np.float32), np.zeros(shape.outputs, np.int8)
    codes = np.clip(np.round(weight * 30), -127, 127).astype(np.int8)
    constants = {"w8": codes, "ws": per_channel[0], "wz": per_channel[1], "xs": np.float32(1 / 255), "xz": np.uint8(0)}
    constants |= {"ys": np.float32(0.1), "yz": np.uint8(128)}
    model = parser.parse_model(text)
    for name, value in (constants if integer else {"w": weight}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return bytes(model.SerializeToString())


def profile(model: bytes, shape: Shape, runs: int) -> dict[str, float]:
    """Median microseconds of one run of every kernel, summed by operator."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    feed = {"x": np.random.default_rng(1).random(shape.feed, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"])
    total: dict[str, float] = defaultdict(float)
    for (operator, _), values in times.items():
        total[operator] += median(values)
    return total


class Timing:
    """Picoseconds of one shape: the float layer with its layout changes, the integer kernel, and what surrounds it."""

    def __init__(self, shape: Shape, runs: int) -> None:
        integer = {name: time * 1e6 for name, time in profile(model_of(shape, True), shape, runs).items()}
        self.shape = shape
        self.plain = sum(profile(model_of(shape, False), shape, runs).values()) * 1e6
        self.borders = [integer.pop(name, 0.0) for name in ("QuantizeLinear", "DequantizeLinear", "Transpose")]
        self.integer = sum(integer.values())
        entering, leaving = prod(shape.feed), shape.outputs * (shape.rows or shape.side**2)
        self.elements = entering, leaving, entering + leaving
        self.products = leaving * shape.inputs // shape.group * shape.kernel**2
        self.gain = (self.plain - self.integer) / self.products

    def line(self) -> tuple[str, ...]:
        """Picoseconds per multiply-add, then per element."""
        products = [f"{time / self.products:.1f}" for time in (self.plain, self.integer)]
        borders = [f"{time / count:.0f}" for time, count in zip(self.borders, self.elements, strict=True)]
        return str(self.shape), *products, f"{self.plain / self.integer:.2f}", *borders


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--runs", type=int, default=30)
    runs = options.parse_args().runs
    groups = (DENSE, FEW, DEPTHWISE, PRODUCTS)
    dense, few, depthwise, products = ([Timing(Shape(*item), runs) for item in group] for group in groups)
    columns = ("layer", "float", "integer", "speed-up", "quantize", "dequantize", "transpose")
    print(render_table("", columns, [item.line() for item in dense + few + depthwise + products], "table", width=120))
    slower = max((item.shape.inputs for item in few if item.gain <= 0), default=0)
    enough = min(item.shape.inputs for item in dense + few if item.shape.inputs > slower)
    border = median(sum(item.borders) / item.elements[2] for item in dense)
    found = (
        ("GAIN_PER_PRODUCT", f"{median(item.gain for item in dense + products):.1f}", worth.GAIN_PER_PRODUCT),
        ("BORDER_PER_ELEMENT", f"{border:.0f}", worth.BORDER_PER_ELEMENT),
        ("BORDER_PER_NODE", f"{sum(Timing(TINY, runs).borders) / 2:.2g}", worth.BORDER_PER_NODE),
        ("LEAST_CHANNELS", enough, worth.LEAST_CHANNELS),
    )
    print(render_table("", ("constant", "measured", "in use"), found, "table"))


if __name__ == "__main__":
    main()
