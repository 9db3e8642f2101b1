"""Compress every model of a collection and show one line each, beside the float model and onnxruntime's own tools.

    python tests/bench/zoo.py sample_models
    python tests/bench/zoo.py --zoo ZOO --models MODELS [--only a,b] [--stock]

A folder holds ``NAME.onnx`` with ``NAME.calib.npz`` and ``NAME.eval.npz`` beside it. A zoo has ``data/NAME/calib.npz`` and
``evals.py`` with ``EVALS[NAME](model, threads)`` and ``PRIMARY[NAME]``, and its models in another folder. Every step runs in
a process of its own; speed-ups are measured in turns against the float model. Exit code 1 when a model could not be
compressed, or does not give the same finite outputs with and without the runtime's optimizations.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from steps import Outcome, run_step
from stock import TOOLS, calibration_feeds, stock_model

from qcompress import RunOptions, compare_models, compress
from qcompress.graph import load_model, model_files
from qcompress.graph.outputs import judged_outputs
from qcompress.measure import LatencySettings, measure_latency
from qcompress.pipeline import versions
from qcompress.report import FORMATS, render_table
from qcompress.runtime import Optimization, SessionSettings, open_session

OURS = "ours"
LEAST_AGREEMENT_DB = 20.0
"""Outputs at two optimization levels differ by rounding (fused kernels round once less), never by a tenth of their size."""


@dataclass(frozen=True)
class Case:
    """One model and its data; ``zoo`` holds evals.py, None for a model with ``NAME.eval.npz`` beside it."""

    name: str
    model: Path
    calib: Path
    zoo: Path | None


@dataclass
class Contender:
    """Figures of one compressed model; ``error`` says why there are none, or not all."""

    metric: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    speedup: float | None = None
    float_ms: float | None = None
    compressed_ms: float | None = None
    error: str = ""


@dataclass
class Row:
    """All figures of one model; seconds and peak are of our compression, without measuring latency."""

    model: str
    metric: str = ""
    higher_is_better: bool = True
    float_metric: float | None = None
    contenders: dict[str, Contender] = field(default_factory=dict)
    seconds: float = 0.0
    peak_mb: float = 0.0
    valid: str = "-"
    notes: tuple[str, ...] = ()


def compressed(case: Case, target: Path, recipe: str, threads: int) -> tuple[str, ...]:
    """Compress as a user would; what the plan has to say."""
    report = compress(case.model, target, recipe, str(case.calib), options=RunOptions(threads=threads, latency_seconds=0.0))
    return tuple(report.notes)


def file_ratio(case: Case, model: Path) -> float:
    """Bytes on disk over the float model's; the checker need not accept what a stock tool wrote."""
    before, after = (sum(file.stat().st_size for file in model_files(path)) for path in (case.model, model))
    return after / before


def scored(case: Case, model: Path, threads: int) -> tuple[str, bool, dict[str, float]]:
    """The name of the metric, whether more is better, and all metrics of one model."""
    if case.zoo is None:
        options = RunOptions(threads=threads, latency_seconds=0.0)
        report = compare_models(case.model, model, str(case.model.with_suffix(".eval.npz")), options=options)
        if report.accuracy is None or report.accuracy.compressed_task is None:
            raise ValueError("the evaluation data has no labels")
        return "top-1", True, {"top-1": report.accuracy.compressed_task.accuracy.value}
    os.environ["CORPUS_ROOT"] = str(case.zoo)
    spec = importlib.util.spec_from_file_location("evals", case.zoo / "evals.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"{case.zoo} has no evals.py")
    evals = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(evals)
    return *evals.PRIMARY[case.name], evals.EVALS[case.name](str(model), threads)


def timed(case: Case, model: Path, threads: int) -> tuple[float, float, float]:
    """Speed-up over float, and the milliseconds of both."""
    feeds = list(islice(calibration_feeds(case.model, case.calib), 4))
    found = measure_latency(case.model, model, feeds, LatencySettings(threads=threads))
    return found.speedup.value, found.float_p50_ms, found.compressed_p50_ms


def agreement(case: Case, model: Path) -> float:
    """Decibels between the judged outputs with all optimizations and with none; an error when any output is not finite."""
    feed = next(calibration_feeds(case.model, case.calib))
    levels = (Optimization.ALL, Optimization.DISABLED)
    fast, plain = (open_session(model, SessionSettings(optimization=level)).run(feed) for level in levels)
    least, judged = 120.0, judged_outputs(load_model(model))
    for name, value in fast.items():
        if not (np.isfinite(value).all() and np.isfinite(plain[name]).all()):
            raise ValueError(f"{name} is not finite")
        if name not in judged:
            continue
        signal, noise = np.square(np.float64(plain[name])).sum(), np.square(np.float64(value) - plain[name]).sum()
        least = min(least, 10.0 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30))))
    return least


def contest(case: Case, model: Path, threads: int) -> Contender:
    """Measure one compressed model."""
    entry = Contender(ratio=run_step(file_ratio, case, model).value)
    score = run_step(scored, case, model, threads)
    if score.error:
        entry.error = f"invalid: {score.error}"
        return entry
    key, _, entry.metrics = score.value
    entry.metric = entry.metrics[key]
    time = run_step(timed, case, model, threads)
    if time.error:
        entry.error = f"not timed: {time.error}"
    else:
        entry.speedup, entry.float_ms, entry.compressed_ms = time.value
    return entry


def measure(case: Case, options: argparse.Namespace) -> Row:
    """All steps of one model."""
    row = Row(case.name)
    target = options.out / f"{case.name}.onnx"
    work = run_step(compressed, case, target, options.recipe, options.threads)
    row.seconds, row.peak_mb = work.seconds, work.peak_mb
    baseline = run_step(scored, case, case.model, options.threads)
    if not baseline.error:
        row.metric, row.higher_is_better, metrics = baseline.value
        row.float_metric = metrics[row.metric]
    if work.error:
        row.contenders[OURS] = Contender(error=work.error)
    else:
        row.notes = work.value
        row.contenders[OURS] = contest(case, target, options.threads)
        row.valid = verdict(run_step(agreement, case, target))
    for tool in TOOLS if options.stock else ():
        say(f"{case.name}: stock {tool}")
        model, error = stock_model(tool, case.model, case.calib, options.cache, options.no_cache)
        row.contenders[tool] = Contender(error=f"error: {error}") if error else contest(case, model, options.threads)
    return row


def verdict(outcome: Outcome) -> str:
    """Whether both optimization levels gave the same finite outputs, in a few words."""
    if outcome.error:
        return f"no: {outcome.error}"
    return f"{'yes' if outcome.value >= LEAST_AGREEMENT_DB else 'no'}, {outcome.value:.0f} dB"


def cells(row: Row, tools: tuple[str, ...]) -> tuple[str, ...]:
    """One line of the table."""
    entries = [row.contenders[tool] for tool in tools]

    def number(value: float | None, form: str, error: str = "") -> str:
        return error.split(":", maxsplit=1)[0] if value is None and error else "-" if value is None else format(value, form)

    return (
        row.model,
        row.metric,
        number(row.float_metric, ".4g"),
        *(number(entry.metric, ".4g", entry.error) for entry in entries),
        *(number(entry.ratio, ".3f") for entry in entries),
        *(number(entry.speedup, ".2f") for entry in entries),
        f"{row.seconds:.0f}",
        f"{row.peak_mb:.0f}",
        row.valid,
    )


def table(rows: list[Row], tools: tuple[str, ...], fmt: str) -> str:
    """The whole table; JSON has every figure."""
    if fmt == "json":
        return json.dumps({"versions": versions(), "rows": [asdict(row) for row in rows]}, indent=2)
    groups = [f"{what}{tool}" for what in ("", "size ", "speed ") for tool in tools]
    columns = ("model", "metric", "float", *groups, "s", "MB", "valid")
    return render_table("", columns, [cells(row, tools) for row in rows], fmt, width=170)


def cases(options: argparse.Namespace) -> list[Case]:
    """The models that were asked for."""
    if options.folder is not None:
        models = sorted(options.folder.glob("*.onnx"))
        found = [Case(model.stem, model, model.with_suffix(".calib.npz"), None) for model in models]
    else:
        models = sorted(path for path in options.models.glob("*.onnx") if (options.zoo / "data" / path.stem).is_dir())
        found = [Case(path.stem, path, options.zoo / "data" / path.stem / "calib.npz", options.zoo) for path in models]
    chosen = set(options.only.split(",")) if options.only else {case.name for case in found}
    if missing := chosen - {case.name for case in found}:
        sys.exit(f"no such model: {', '.join(sorted(missing))}")
    return [case for case in found if case.name in chosen]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="models with their data beside them")
    parser.add_argument("--zoo", type=Path, help="folder of evals.py and data/")
    parser.add_argument("--models", type=Path, help="folder of the zoo's models")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--stock", action="store_true", help="onnxruntime's own tools too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/zoo"), help="where compressed models go")
    parser.add_argument("--cache", type=Path, default=Path("out/stock"), help="where the stock tools' models are kept")
    parser.add_argument("--no-cache", action="store_true", help="make the stock tools' models again")
    parser.add_argument("--format", choices=tuple(FORMATS), default="table")
    parser.add_argument("--report", type=Path, help="write every figure here as JSON")
    options = parser.parse_args()
    if (options.folder is None) == (options.zoo is None) or (options.zoo is None) != (options.models is None):
        parser.error("give a folder, or --zoo and --models")
    return options


def main() -> int:
    """Measure them all."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    tools = (OURS, *(TOOLS if options.stock else ()))
    for case in cases(options):
        say(case.name)
        rows.append(measure(case, options))
        if options.report:  # after each model, so that an interrupted run leaves what it has measured
            options.report.write_text(table(rows, tools, "json") + "\n")
    print(table(rows, tools, options.format))
    for row in rows:
        for tool in tools:
            if row.contenders[tool].error:
                say(f"{row.model}, {tool}: {row.contenders[tool].error}")
    return int(any(row.contenders[OURS].error or not row.valid.startswith("yes") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
