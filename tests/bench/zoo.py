"""Compress every model of a folder and show one line each.

    python tests/bench/zoo.py sample_models [--recipe int8] [--threads 0] [--out out/zoo]

A model is ``NAME.onnx`` with ``NAME.calib.npz`` and ``NAME.eval.npz`` beside it. Exit code 1 when one could not be compressed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from qcompress import QcompressError, Report, RunOptions, compress
from qcompress.report import render_table

COLUMNS = ("model", "float kB", "kB", "ratio", "speed-up", "float", "compressed", "drop", "note")


def row(name: str, report: Report) -> tuple[str, ...]:
    """One line of figures."""
    size, accuracy = report.size, report.accuracy
    before = after = drop = "-"
    if accuracy is not None and accuracy.float_task is not None and accuracy.compressed_task is not None:
        before = f"{accuracy.float_task.accuracy.value:.4f}"
        after = f"{accuracy.compressed_task.accuracy.value:.4f}"
    if accuracy is not None and accuracy.drop is not None:
        drop = f"{accuracy.drop.value:.4f}"
    speed = f"{report.latency.speedup.value:.2f}" if report.latency is not None else "-"
    kilobytes = f"{size.float_bytes / 1000:.0f}", f"{size.compressed_bytes / 1000:.0f}", f"{size.ratio:.3f}"
    return name, *kilobytes, speed, before, after, drop, ""


def main() -> int:
    """Compress them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/zoo"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for model in sorted(options.folder.glob("*.onnx")):
        calib, evaluation = (str(model.with_suffix(suffix)) for suffix in (".calib.npz", ".eval.npz"))
        try:
            report = compress(
                model,
                options.out / model.name,
                options.recipe,
                calib,
                evaluation,
                options=RunOptions(threads=options.threads),
            )
        except QcompressError as error:
            rows.append((model.stem, *["-"] * (len(COLUMNS) - 2), error.message))
            failed = True
        else:
            rows.append(row(model.stem, report))
    print(render_table("", COLUMNS, rows, "table"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
