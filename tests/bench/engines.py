"""The zoo of tests/bench/batch.py on the local engine, and on a Dask cluster of two workers of which one is killed midway.

    python tests/bench/engines.py --models 190 --broken 10

Prints the time of both, the overhead per model, and whether both left the same results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import distributed

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from batch import batch, digests, finished  # noqa: E402  # the path comes first
from many_models import BROKEN, make_zoo  # noqa: E402


def started(stack: ExitStack, *words: str) -> subprocess.Popen[bytes]:
    """A process of Dask that ends with the bench."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "dask", *words], env=environment, **quiet)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def cluster(stack: ExitStack, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """The address of a scheduler, and one of its two workers of one thread; nobody starts them again."""
    found = folder / "scheduler.json"
    own = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(found)]
    started(stack, "scheduler", *own, "--port", "0")
    local = ["--no-nanny", "--nthreads", "1", "--local-directory", str(folder / "dask")]
    first, _ = (started(stack, "worker", *own, *local) for _ in range(2))
    while not found.exists():
        time.sleep(0.1)
    address = json.loads(found.read_text())["address"]
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    return address, first


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=190)
    parser.add_argument("--broken", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds of those that hang")
    parser.add_argument("--folder", type=Path, default=Path("out/engines"))
    options = parser.parse_args()
    options.jobs, options.memory_limit, options.extra = 2, "2GB", []
    folder = options.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    kinds = tuple(BROKEN[index % len(BROKEN)] for index in range(options.broken))
    manifest, out = make_zoo(folder / "zoo", options.models, kinds, options.timeout), folder / "results"
    count = options.models + options.broken
    begun = time.monotonic()
    code, near = finished(manifest, out, options)
    local = time.monotonic() - begun
    print(f"local, 2 at a time: exit code {code}, {local:.1f} s", flush=True)
    expected = digests(out)
    out.rename(folder / "local")
    with ExitStack() as stack:
        address, victim = cluster(stack, folder)
        options.extra = ["--engine", "dask", "--scheduler", address]
        begun = time.monotonic()
        finished(manifest, out, options)
        dask = time.monotonic() - begun
        whole = digests(out) == expected
        print(f"Dask, 2 workers: {dask:.1f} s, {1000 * (dask - local) / count:+.0f} ms a model", flush=True)
        shutil.rmtree(out)
        begun = time.monotonic()
        process = batch(manifest, out, options)
        while len([*out.glob("*.state.json"), *out.glob("group*/*.state.json")]) < count // 2 and process.poll() is None:
            time.sleep(0.1)
        victim.kill()
        text, _ = process.communicate()
        far = json.loads(text)
        print(
            f"Dask, one of 2 workers killed after {count // 2} models: exit code {process.returncode}, {time.monotonic() - begun:.1f} s"
        )
    print(
        "  "
        + ", ".join(f"{number} {status}" for status, number in Counter(item["status"] for item in far["outcomes"]).items())
    )
    print(f"  started again: {', '.join(item['name'] for item in far['outcomes'] if item['attempts'] > 1) or 'none'}")
    ends = [[(item["name"], item["status"]) for item in summary["outcomes"]] for summary in (near, far)]
    same = whole and digests(out) == expected and sorted(ends[0]) == sorted(ends[1]) and process.returncode == code
    print(f"  results {'identical' if same else 'DIFFERENT'}")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
