"""A zoo of small models with broken ones among them: one undisturbed batch, then one killed again and again and resumed.

    python tests/bench/batch.py --models 190 --broken 10 --kills 20

Prints how the models ended, the time, the peak of memory, and whether both batches left the same bytes. The kills are SIGKILL
to the command, at random moments of a fixed seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from many_models import BROKEN, CAUSES, make_zoo  # noqa: E402  # the path comes first

RESULTS = ("*.onnx", "*.report.json")


def batch(manifest: Path, out: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a batch."""
    words = [sys.executable, "-m", "qcompress", "batch", str(manifest), "-o", str(out), "--format", "json", "--quiet"]
    words += ["--jobs", str(options.jobs), "--memory-limit", options.memory_limit, *options.extra]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def finished(manifest: Path, out: Path, options: argparse.Namespace) -> tuple[int, dict[str, object]]:
    """Run a batch to its end; the exit code and the summary."""
    process = batch(manifest, out, options)
    text, _ = process.communicate()
    return process.returncode, json.loads(text)


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every result, by its place."""
    files = sorted(path for pattern in RESULTS for path in out.rglob(pattern))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stray(out: Path) -> list[str]:
    """Processes that work for this folder although nobody supervises them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if any(word.startswith(f"--output={out}") for word in words):
            found.append(entry.parent.name)
    return found


def killed(manifest: Path, out: Path, options: argparse.Namespace, seconds: float) -> None:
    """Start the batch and kill it after so many seconds; nothing of it may go on."""
    process = batch(manifest, out, options)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while stray(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    if stray(out):
        raise SystemExit(f"processes outlive the batch: {stray(out)}")


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=190)
    parser.add_argument("--broken", type=int, default=10)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds of those that hang")
    parser.add_argument("--folder", type=Path, default=Path("out/batch"))
    parser.add_argument("extra", nargs="*", help="further options of qcompress batch, after --")
    options = parser.parse_args()
    folder = options.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    kinds = tuple(BROKEN[index % len(BROKEN)] for index in range(options.broken))
    manifest, out = make_zoo(folder / "zoo", options.models, kinds, options.timeout), folder / "results"
    started = time.monotonic()
    code, summary = finished(manifest, out, options)
    seconds = time.monotonic() - started
    outcomes = summary["outcomes"]
    assert isinstance(outcomes, list)
    print(f"undisturbed: exit code {code}, {seconds:.0f} s, peak {summary['peak'] / 1e6:.0f} MB")
    print("  " + ", ".join(f"{count} {status}" for status, count in Counter(item["status"] for item in outcomes).items()))
    wrong = [item for item in outcomes if item["status"] != CAUSES.get(item["name"].rstrip("0123456789"), "done")]
    for item in [*wrong, *(item for item in outcomes if item["cause"])]:
        print(f"  {'UNEXPECTED ' if item in wrong else ''}{item['name']}: {item['status']}: {item['cause']}")
    expected = digests(out)
    out.rename(folder / "undisturbed")
    moments = random.Random(0)
    for number in range(options.kills):
        moment = moments.uniform(0.5, 2 * seconds / (options.kills + 1))
        killed(manifest, out, options, moment)
        print(f"  kill {number + 1} after {moment:.1f} s: {len(digests(out))} of {len(expected)} files", flush=True)
    code_after, after = finished(manifest, out, options)
    same = digests(out) == expected
    print(f"killed {options.kills} times and resumed: exit code {code_after}, bytes {'identical' if same else 'DIFFERENT'}")
    statuses = [(item["name"], item["status"]) for item in after["outcomes"]]  # type: ignore[attr-defined]
    same = same and statuses == [(item["name"], item["status"]) for item in outcomes]
    return int(bool(wrong) or not same or code != code_after)


if __name__ == "__main__":
    sys.exit(main())
