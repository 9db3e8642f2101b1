"""Estimated against really measured times of whole assignments of forms.

    python tests/bench/cost.py ZOO_OR_FOLDER MODEL... [--threads 2] [--seconds 8] [--mixed 6]

For each model (MODEL.onnx in models/ with data in data/MODEL/calib.npz, or beside it as MODEL.calib.npz) it measures the cost
table, then predicts float time / variant time for all float, static, dynamic and stored weights and for random mixtures, and
measures the same with all of them taking turns (--latency: also each against float alone, which takes longer and is disturbed
more by other work). It prints the error of every prediction and their median.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from qcompress.calibrate import observe_shapes
from qcompress.data import DataOptions, cut, open_dataset
from qcompress.decisions import Keep
from qcompress.graph import save_model
from qcompress.measure import LatencySettings, measure_latency
from qcompress.measure.profile import ProfileSettings, profile_models
from qcompress.operators import find_layers
from qcompress.pipeline import load_prepared
from qcompress.plan.choose import DYNAMIC, STATIC, WEIGHTS, choose_forms
from qcompress.plan.estimate import Estimator
from qcompress.planning.costs import alternating, measure_costs
from qcompress.planning.work import Workplace, assemble, fit
from qcompress.progress import SILENT
from qcompress.recipe import load_recipe
from qcompress.report import render_table
from qcompress.rewrite import apply_plan
from qcompress.types import Feed, Form

Choice = Mapping[str, Form | Keep]


@dataclass(frozen=True)
class Bench:
    """One model, ready to be measured."""

    work: Workplace
    feeds: list[Feed]
    choices: dict[str, Choice]

    @classmethod
    def open(cls, model: Path, data: Path, threads: int) -> Bench:
        """Prepare the model and make the choices that are measured in any case."""
        recipe = load_recipe("int8")
        prepared = load_prepared(model, recipe)
        names = tuple(output.name for output in prepared.outputs)
        dataset = open_dataset(str(data), prepared.inputs, DataOptions(), output_names=names)
        parts = cut(dataset.limit(12), 0.25, 0)
        feeds = [batch.feed for batch in parts.fit.batches()][:4]
        work = Workplace(prepared, find_layers(prepared), recipe, parts, observe_shapes(prepared, feeds[0]), threads, SILENT)
        preferences = {"static": STATIC, "dynamic": DYNAMIC, "weights": WEIGHTS}
        choices = {name: choose_forms(work.layers, item, recipe, work.shapes) for name, item in preferences.items()}
        return cls(work, feeds, choices)

    def mixture(self, seed: int) -> Choice:
        """A random form of those measured for every layer; the shares of the forms are random too."""
        draw = random.Random(seed)
        shares = [draw.random() for _ in self.choices]
        mixed: dict[str, Form | Keep] = {}
        for layer in self.work.layers:
            (source,) = draw.choices(list(self.choices), shares)
            mixed[layer.name] = self.choices[source][layer.name]
        return mixed


def measure(bench: Bench, name: str, seconds: float, mixed: int, alternate: bool, latency: bool) -> list[tuple[str, ...]]:
    """Rows of one model: assignment, estimated and measured ratio, error."""
    work = bench.work
    variants = dict(bench.choices)
    if alternate:
        variants["even"], variants["odd"] = alternating(work.layers, bench.choices["static"], bench.choices["weights"])
    variants = {key: choice for key, choice in variants.items() if any(isinstance(form, Form) for form in choice.values())}
    mixtures = {f"mixture {seed}": bench.mixture(seed) for seed in range(1, mixed + 1)}
    fitted = fit(work, [*variants.values(), *mixtures.values()])
    plans = {key: assemble(work, choice, fitted) for key, choice in (variants | mixtures).items()}
    settings = ProfileSettings(work.threads, seconds)
    started = time.perf_counter()
    table = measure_costs(work.model, work.layers, {key: plans[key] for key in variants}, bench.feeds, settings)
    took = time.perf_counter() - started
    estimator = Estimator(work.model, work.layers, table, work.shapes)
    plain: Choice = {layer.name: Keep("float") for layer in work.layers}
    assignments = {"float": plain, **bench.choices, **mixtures}
    rows: list[tuple[str, ...]] = []
    errors: list[float] = []
    with TemporaryDirectory() as folder:
        files = {"": work.model.path}
        for index, key in enumerate(assignments):
            files[key] = Path(folder) / f"{index}.onnx"
            variant = work.model.clone()
            if key in plans:
                apply_plan(plans[key], variant)
            save_model(variant, files[key])
        profiles = profile_models(files, bench.feeds, ProfileSettings(work.threads, seconds * len(files) / 4))
        for key, choice in assignments.items():
            placement = work.place(choice)
            started = time.perf_counter()
            estimated = table.source_ms / estimator.milliseconds(choice, placement)
            pause = time.perf_counter() - started
            measured = profiles[""].ms / profiles[key].ms
            errors.append(abs(estimated / measured - 1.0))
            speedup = f"{_speedup(bench, files[key]):.3f}" if latency else ""
            figures = f"{estimated:.3f}", f"{measured:.3f}", f"{estimated / measured - 1.0:+.1%}"
            rows.append((name, key, f"{profiles[key].ms:.3f}", *figures, speedup))
    remark = f"median {median(errors):.1%}, most {max(errors):.1%}"
    return [*rows, (name, f"{took:.0f} s, {pause * 1e3:.2f} ms an estimate", "", "", "", remark, "")]


def _speedup(bench: Bench, file: Path) -> float:
    limits = LatencySettings(bench.work.threads, budget_seconds=3.0)
    return measure_latency(bench.work.model.path, file, bench.feeds, limits).speedup.value


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("zoo", type=Path)
    options.add_argument("models", nargs="+")
    options.add_argument("--models-in", type=Path, help="where the models are, if not in ZOO/models or ZOO")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--mixed", type=int, default=6)
    options.add_argument("--no-alternating", action="store_true", help="leave out the variants of alternating layers")
    options.add_argument("--latency", action="store_true", help="also measure each against float alone")
    given = options.parse_args()
    columns = ("model", "assignment", "ms", "estimated", "measured", "error", "against float alone")
    for name in given.models:
        folders = (given.models_in or given.zoo / "models", given.zoo)
        model = next(path for folder in folders if (path := folder / f"{name}.onnx").is_file())
        data = given.zoo / "data" / name / "calib.npz"
        bench = Bench.open(model, data if data.is_file() else given.zoo / f"{name}.calib.npz", given.threads)
        rows = measure(bench, name, given.seconds, given.mixed, not given.no_alternating, given.latency)
        print(render_table("", columns, rows, "table"), flush=True)


if __name__ == "__main__":
    main()
