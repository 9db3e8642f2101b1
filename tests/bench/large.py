"""Memory that compressing large models takes, each run in a process of its own.

    python tests/bench/large.py MODEL.onnx [--data feeds.npz] [--gigabytes 2.2] [--recipes int8-weights,int8-dynamic]

Compresses MODEL without data, then a stack of its own layers with more than ``--gigabytes`` of weights: the nodes between the
first and the last tensor of the residual stream, again and again, each time with weights of their own. With ``--data`` (one
array for each input, whose first axis counts feeds) the recipes run on two feeds of it, which calibrates, runs and times both
models.

anon: private memory (RssAnon), the most a sampling thread saw every 5 ms. file: pages of mapped files (RssFile), which the
system takes back when it needs them. goal: 1.5 times the largest layer and 300 MB, for runs without data.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from qcompress.graph import Model, load_model, save_model
from qcompress.graph.tensors import stored_tensors

MEGA = 1e6
FEEDS = 2


def stack(source: Path, target: Path, least: float) -> None:
    """Write the model with its layers repeated until there are ``least`` bytes of weights."""
    model = load_model(source)
    proto = ir.to_proto(model.ir)
    first, last = stream_ends(proto)
    inner = between(proto, first, last)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    own = [name for name in dict.fromkeys(name for node in inner for name in node.input) if name in weights]
    own = [name for name in own if np.prod(weights[name].dims) > 64]
    sizes = {name: int(np.prod(weights[name].dims)) * 4 for name in own}
    total = sum(tensor.nbytes for tensor in stored_tensors(model.ir))
    nodes = list(proto.graph.node)
    end = max(index for index, node in enumerate(nodes) if node in inner) + 1
    copies: list[onnx.NodeProto] = []
    tensor, number = last, 0
    while total < least:
        number += 1
        total += sum(sizes.values())
        made = {name for node in inner for name in node.output}
        names = {name: f"{name}/{number}" for name in [*own, *made]} | {first: tensor}
        for node in inner:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            copy.name = f"{node.name or node.output[0]}/{number}"
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names[name] for name in node.output]
            copies.append(copy)
        for name in own:
            again = proto.graph.initializer.add()
            again.CopyFrom(weights[name])
            again.name = names[name]
        tensor = names[last]
    behind = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes[end:]]
    for node in behind:
        node.input[:] = [tensor if name == last else name for name in node.input]
    before = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes[:end]]
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend([*before, *copies, *behind])
    save_model(Model(ir.from_proto(proto), source), target)


def stream_ends(proto: onnx.ModelProto) -> tuple[str, str]:
    """The first and the last tensor of the residual stream: read by an addition and by something else."""
    readers: dict[str, list[str]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    stored = {tensor.name for tensor in proto.graph.initializer}
    found = [
        name
        for node in proto.graph.node
        for name in node.output
        if name not in stored and "Add" in readers.get(name, []) and {"MatMul", "RMSNormalization"} & set(readers[name])
    ]
    if len(found) < 2:
        raise SystemExit("no residual stream was found: give a transformer")
    return found[0], found[-1]


def between(proto: onnx.ModelProto, first: str, last: str) -> list[onnx.NodeProto]:
    """The nodes that ``last`` is computed by and that depend on ``first``, in order."""
    reached, wanted = {first}, {last}
    forward = []
    for node in proto.graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
            forward.append(node)
    kept = []
    for node in reversed(forward):
        if wanted & set(node.output) and first not in node.output:
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def measured(source: Path, target: Path, recipe: str, data: str) -> dict[str, float]:
    """Compress in this process and watch its memory."""
    from qcompress.pipeline import RunOptions, compress

    peaks = {"RssAnon": 0, "RssFile": 0}

    def watch() -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(rest.split()[0]) * 1024)
            time.sleep(0.005)

    threading.Thread(target=watch, daemon=True).start()
    started = time.perf_counter()
    options = RunOptions(threads=2, held_out=0.5, latency_seconds=2.0 if data else 0.0)
    report = compress(source, target, recipe, data or None, options=options)
    outputs = report.accuracy.agreement if report.accuracy else ()
    speed = report.latency.speedup.value if report.latency else 0.0
    return {
        "anon": peaks["RssAnon"],
        "file": peaks["RssFile"],
        "seconds": time.perf_counter() - started,
        "before": report.size.float_bytes,
        "after": report.size.compressed_bytes,
        "cosine": min((item.cosine.value for item in outputs if item.cosine is not None), default=0.0),
        "speed": speed,
    }


def rows(source: Path, recipes: list[str], data: Path | None) -> Iterator[str]:
    """A line of the table for each recipe."""
    largest = max(tensor.nbytes for tensor in stored_tensors(load_model(source).ir))
    for recipe in recipes:
        fed = "" if data is None or recipe.endswith("weights") else str(data)
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            command = [sys.executable, __file__, "--child", str(source), str(Path(folder) / "out.onnx"), recipe, fed]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"| {recipe} | failed: {done.stderr.strip().splitlines()[-1]} |"
            continue
        found = json.loads(done.stdout)
        goal = f"{(1.5 * largest / MEGA + 300):.0f}" if not fed else "-"
        ran = f"{found['cosine']:.4f} | {found['speed']:.2f}" if fed else "- | -"
        yield (
            f"| {found['before'] / MEGA:.0f} | {recipe} | {largest / MEGA:.0f} | {goal} | {found['anon'] / MEGA:.0f} "
            f"| {found['file'] / MEGA:.0f} | {found['seconds']:.0f} | {found['after'] / found['before']:.3f} | {ran} |"
        )


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--child"]:
        source, target, recipe, data = sys.argv[2:]
        print(json.dumps(measured(Path(source), Path(target), recipe, data)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--recipes", default="int8-weights")
    options = parser.parse_args()
    recipes = options.recipes.split(",")
    print("| MB | recipe | largest layer | goal | anon | file | seconds | ratio | cosine | speed |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="qcompress-large-") as folder:
        data = None
        if options.data:
            data = Path(folder) / "feeds.npz"
            with np.load(options.data) as archive:
                np.savez(data, **{name: archive[name][: 2 * FEEDS, 0] for name in archive.files})
        for row in rows(options.model, recipes, data):
            print(row, flush=True)
        large = Path(folder) / "stacked.onnx"
        stack(options.model, large, options.gigabytes * 1e9)
        for row in rows(large, recipes, data):
            print(row, flush=True)


if __name__ == "__main__":
    main()
