"""The models that onnx tests backends with, all through one batch on random data: none may crash the tool.

    python tests/bench/onnx_backend.py [--jobs 2] [--only node] [-- further options of qcompress batch]

Counts the models by how they ended, and those that cannot be used by their reason. Every one must end as compressed within the
loss allowed, as nothing to compress, or with a reason.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx.backend.test
from onnx.backend.test.loader import load_node_model_tests

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(onnx.backend.test.__file__).parent / "data"
BAD = ("crashed", "bug", "timed out", "out of memory", "not run")


def models() -> Iterator[tuple[str, bytes]]:
    """Every model: those of single operators, which onnx makes when asked, and those it ships as files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_node_model_tests()
    for case in cases:
        if case.model is not None:
            yield f"node/{case.name}", case.model.SerializeToString()
    for path in sorted(DATA.rglob("*.onnx")):
        group, *rest = path.relative_to(DATA).parts
        yield f"{group}/{rest[0].removesuffix('.onnx')}", path.read_bytes()


def collect(folder: Path, only: str) -> int:
    """Write every model without data beside it; how many there are."""
    count = 0
    for name, content in models():
        if only in name:
            target = folder / f"{name}.onnx"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            count += 1
    return count


def reason(cause: str) -> str:
    """A cause without what is different for each model."""
    text = re.sub(r"/[^\s:]*/", "", cause)
    return re.sub(r"'[^']*'|\d+(\.\d+)?(e-?\d+)?", "*", text)[:110]


def main() -> int:
    """Run the batch and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/onnx_backend"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="models whose group/name has this in it")
    parser.add_argument("extra", nargs="*", help="further options of qcompress batch, after --")
    options = parser.parse_args()
    folder = options.folder.absolute()
    shutil.rmtree(folder / "zoo", ignore_errors=True)
    print(f"{collect(folder / 'zoo', options.only)} models of onnx {onnx.__version__}", flush=True)
    words = [sys.executable, "-m", "qcompress", "batch", str(folder / "zoo"), "-o", str(folder / "results"), "--recipe=int8"]
    words += ["--data=random", f"--jobs={options.jobs}", "--timeout=10m", "--format=json", *options.extra]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    summary = json.loads(done.stdout)
    outcomes = summary["outcomes"]
    print(f"exit code {done.returncode}, {summary['seconds']:.0f} s, peak {summary['peak'] / 1e6:.0f} MB")
    for status, count in Counter(item["status"] for item in outcomes).most_common():
        print(f"{count:6} {status}")
    for status in ("unusable", "gate failed", "nothing to compress"):
        print(f"{status}, by reason:")
        causes = Counter(reason(item["cause"]) for item in outcomes if item["status"] == status)
        for cause, count in causes.most_common(25):
            print(f"{count:6} {cause}")
    bad = [item for item in outcomes if item["status"] in BAD or not (item["cause"] or item["status"] == "done")]
    for item in bad:
        print(f"BAD {item['name']}: {item['status']}: {item['cause']} ({item['stage']})")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
