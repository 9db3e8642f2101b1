"""Damage the sample models for some time, and report every damage that is not answered with one of our own errors.

    python tests/bench/fuzz_loader.py --seconds 300 [--seed 0] [MODEL ...]

Every batch of seeds runs in a process of its own, so that a crash or a hang of a native library is caught and named.
Exit code 1 when something was found.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mutations import attempt, mutate

SAMPLES = Path(__file__).resolve().parent.parent.parent / "sample_models"
BATCH = 200
LIMIT_SECONDS = 20
"""More than this for one damaged file is a hang: an intact one takes well under a second."""
LIMIT_BYTES = 6 << 30
"""Address space of a worker; an intact model needs far less, so running out means that a size in the file was believed."""


def worker(model: Path, first: int, folder: Path) -> None:
    """Try ``BATCH`` seeds; prints the seed before, and the outcome after each."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    content = model.read_bytes()
    damaged = folder / "damaged.onnx"
    for seed in range(first, first + BATCH):
        print(f"seed\t{seed}", flush=True)
        damaged.write_bytes(mutate(content, seed))
        start = time.perf_counter()
        try:
            outcome = attempt(damaged)
        except BaseException:
            lines = [line.strip() for line in traceback.format_exc().splitlines()]
            where = next((line for line in reversed(lines) if line.startswith("File ")), "")
            print(f"escaped\t{seed}\t{lines[-1][:200]} at {where}", flush=True)
        else:
            print(f"fine\t{outcome == 'loaded'}\t{time.perf_counter() - start:.3f}", flush=True)


def run_batch(model: Path, first: int, folder: Path, counts: Counter[str]) -> list[str]:
    """Run a worker; a line for each thing found."""
    command = [sys.executable, __file__, "--worker", str(first), "--folder", str(folder), str(model)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS * 20, check=False)
        output, code = done.stdout, done.returncode
        errors = done.stderr
    except subprocess.TimeoutExpired as error:
        output, code, errors = (error.stdout or b"").decode(), 0, ""
        counts["hung"] += 1
    lines = [line.split("\t") for line in output.splitlines()]
    found = [f"{model.name} seed {line[1]}: {line[2]}" for line in lines if line[0] == "escaped"]
    fine = [line for line in lines if line[0] == "fine"]
    counts["tried"] += sum(line[0] == "seed" for line in lines)
    counts["loaded"] += sum(line[1] == "True" for line in fine)
    counts["refused"] += sum(line[1] == "False" for line in fine)
    counts["slowest ms"] = max([counts["slowest ms"], *(int(float(line[2]) * 1000) for line in fine)])
    last = next((line[1] for line in reversed(lines) if line[0] == "seed"), "?")
    if code < 0:
        found.append(f"{model.name} seed {last}: killed by signal {-code}: {errors[-500:]!r}")
    elif code > 0:
        found.append(f"{model.name} seed {last}: worker failed: {errors[-500:]!r}")
    elif lines and lines[-1][0] == "seed":
        found.append(f"{model.name} seed {last}: hangs")
    return found


def main() -> int:
    """Fuzz until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, default=sorted(SAMPLES.glob("*.onnx")))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=int)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.models[0], options.worker, options.folder)
        return 0
    counts: Counter[str] = Counter()
    found: list[str] = []
    end = time.monotonic() + options.seconds
    first = options.seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            for model in options.models:
                found += run_batch(model, first, Path(folder), counts)
            first += BATCH
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())), f"seeds {options.seed}..{first - 1}")
    kinds: dict[str, list[str]] = {}
    for line in found:
        place, _, what = line.partition(": ")
        kinds.setdefault(what, []).append(place)
    for what, places in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f"{len(places)} x {what}\n    {', '.join(places[:5])}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
