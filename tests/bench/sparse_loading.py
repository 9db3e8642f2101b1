"""How long a model takes to load whose zeros are not stored, beside the same one with all its codes.

Run: python tests/bench/sparse_loading.py [rows columns]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SCHEMES = ("float32", "int8/channel", "int4/channel", "int4/block32")
ROUNDS = 3


def write(folder: Path, shape: tuple[int, int], scheme: str, zeros: float) -> Path:
    """One product, its weight in folded form."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from text_models import plan_by_hand, prepared

    from qcompress.graph import save_model
    from qcompress.quantize import narrow, quantize_weight
    from qcompress.rewrite import apply_plan
    from qcompress.types import FloatScheme, Form, parse_scheme

    weight = np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)
    weight[np.abs(weight) < np.quantile(np.abs(weight), zeros)] = 0
    text = '<ir_version: 10, opset_import: ["": 21]> net (float[n, a] x) => (float[n, b] y) { y = MatMul (x, w) }'
    model = prepared(folder, text, {"w": weight})
    wanted = parse_scheme(scheme)
    codes = (
        narrow(weight, wanted)
        if isinstance(wanted, FloatScheme)
        else quantize_weight(weight, wanted.on_axis(0 if "block" in scheme else 1))
    )
    plan = plan_by_hand(model, {"w": Form.FOLDED}, {"x": np.zeros((1, shape[0]), np.float32)}, scheme)
    apply_plan(plan, model, codes={"w": codes})
    target = folder / f"{scheme.replace('/', '-')}-{zeros}.onnx"
    save_model(model, target)
    return target


def load(path: str) -> None:
    """Print the shortest of some loads in seconds of one thread, and the peak of memory in MB."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        times.append(time.process_time() - start)
    print(f"{min(times):.2f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB")


def main() -> None:
    """Print a line for every scheme, dense and sparse."""
    shape = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (2560, 4096)
    with TemporaryDirectory() as folder:
        for scheme in SCHEMES:
            for zeros in (0.0, 0.5, 0.8):
                path = write(Path(folder), shape, scheme, zeros)
                told = subprocess.run(
                    [sys.executable, __file__, "load", str(path)], capture_output=True, text=True, check=True
                )
                print(
                    f"{scheme:13} {zeros:.0%} zeros  {path.stat().st_size / 1e6:6.2f} MB  {told.stdout.strip()}", flush=True
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2])
    else:
        main()
