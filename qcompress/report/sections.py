"""What a report says to people, in order, before any format lays it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from qcompress.results import (
    AccuracyReport,
    Interval,
    KernelReport,
    LatencyReport,
    OutputAgreement,
    Report,
    SizeReport,
    TaskMetrics,
    WeightRow,
)
from qcompress.types import Form

LISTED = 20
"""Kept weights beyond this number are grouped by reason; the verbose report lists them all."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, sentences under it, and a table."""

    title: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()


def warnings(report: Report) -> list[str]:
    """What must be read first."""
    found = []
    if report.data.random:
        found.append(
            "RANDOM DATA: calibrated or measured on random numbers; accuracy and ranges mean nothing for real inputs."
        )
    if report.accuracy is not None:
        found += [note for note in report.accuracy.notes if note.startswith("OUTPUT LOST")]
    return found


def sections(report: Report, verbose: bool = False) -> list[Section]:
    """The whole report; ``verbose`` lists every weight, not only the kept ones."""
    found = [_facts(report), _size(report.size)]
    found.append(_latency(report.latency) if report.latency else Section("Latency", ("not measured",)))
    if report.accuracy is None:
        found.append(Section("Accuracy", ("not measured",)))
    else:
        found += _accuracy(report.accuracy)
    if report.kernels is not None:
        found.append(_kernels(report.kernels))
    found += _coverage(report.coverage, verbose)
    if report.notes:
        found.append(Section("Notes", report.notes))
    if report.gates:
        found.append(_gates(report))
    return found


def headline(report: Report) -> str:
    """The result in one line: size, speed, loss."""
    parts = [_times_smaller(report.size)]
    if report.latency:
        parts.append(f"{report.latency.speedup.value:.2f} times as fast")
    if report.accuracy and report.accuracy.drop:
        parts.append(f"drop {report.accuracy.drop.value:.4f}")
    return ", ".join(parts)


def _times_smaller(size: SizeReport) -> str:
    return f"{1 / max(size.ratio, 1e-9):.2f}x smaller" if size.ratio <= 1 else f"{size.ratio:.2f}x larger"


def _facts(report: Report) -> Section:
    data = report.data
    rows: list[tuple[object, ...]] = [("model", report.source), ("compressed", report.target), ("recipe", report.recipe)]
    if data.calibration:
        rows.append(("calibration", f"{data.calibration}, {data.calibration_samples} samples"))
    if data.evaluation:
        held = ", held out of the calibration data" if data.held_out else ""
        rows.append(("evaluation", f"{data.evaluation}, {data.evaluation_samples} samples{held}"))
    if report.versions:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))))
    return Section("Result", (headline(report),), columns=("what", "value"), rows=tuple(rows))


def _size(size: SizeReport) -> Section:
    rows: list[tuple[object, ...]] = [
        ("file", kilobytes(size.float_bytes), kilobytes(size.compressed_bytes), f"{size.ratio:.3f}")
    ]
    for dtype in sorted({*size.float_weights, *size.compressed_weights}):
        before, after = size.float_weights.get(dtype, 0), size.compressed_weights.get(dtype, 0)
        rows.append((f"{dtype} weights", kilobytes(before), kilobytes(after), None))
    before, after = sum(size.float_weights.values()), sum(size.compressed_weights.values())
    rows.append(("all weights", kilobytes(before), kilobytes(after), f"{after / max(before, 1):.3f}"))
    if size.gzip_bytes is not None:
        rows.append(
            ("file after gzip", None, kilobytes(size.gzip_bytes), f"{size.gzip_bytes / max(size.float_bytes, 1):.3f}")
        )
    return Section("Size", (_times_smaller(size),), ("part", "float kB", "compressed kB", "ratio"), tuple(rows))


def _latency(latency: LatencyReport) -> Section:
    threads = f"{latency.threads} threads" if latency.threads else f"default threads on {latency.cores} cores"
    shapes = "; ".join(f"{name} {_shape(shape)}" for name, shape in latency.feed_shapes.items())
    lines = (
        f"{interval(latency.speedup, '.2f')} times as fast (median of {latency.rounds} rounds in turns, 95 % interval)",
        f"{latency.runtime or 'onnxruntime'}, CPU, {threads}, idle threads {'spin' if latency.spinning else 'sleep'}, "
        f"{latency.runs} runs each, inputs {shapes}",
    )
    rows = (
        ("float", f"{latency.float_p50_ms:.3f}", f"{latency.float_p90_ms:.3f}"),
        ("compressed", f"{latency.compressed_p50_ms:.3f}", f"{latency.compressed_p90_ms:.3f}"),
    )
    return Section("Latency", lines, ("model", "p50 ms", "p90 ms"), rows)


def _accuracy(accuracy: AccuracyReport) -> list[Section]:
    lines = [f"{accuracy.samples} samples of {accuracy.source}"]
    if accuracy.drop is not None:
        lines.append(f"drop {interval(accuracy.drop, '.4f')} (of {accuracy.drop_of or 'accuracy'}; 0.01 is one point)")
    lines += accuracy.notes
    found = [Section("Accuracy", tuple(lines), *_tasks(accuracy))]
    if accuracy.agreement:
        columns = ("output", "top-1", "cosine", "SQNR dB", "max error", "equal")
        rows = tuple(_agreement(output) for output in accuracy.agreement)
        found.append(Section("Agreement with the float model", (), *_without_empty(columns, rows)))
    return found


def _tasks(accuracy: AccuracyReport) -> tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]:
    """Float against compressed, as columns and rows; empty without labels or metric."""
    rows: list[tuple[object, ...]] = []
    if accuracy.float_task and accuracy.compressed_task:
        pair = (accuracy.float_task, accuracy.compressed_task)
        rows += [(name, *(show(task) for task in pair)) for name, show in _TASK_ROWS.items()]
        if all(task.counts for task in pair):
            rows.append(("TP / TN / FP / FN", *(_counts(task) for task in pair)))
    if accuracy.metric:
        values = (accuracy.metric.float_value, accuracy.metric.compressed_value)
        rows.append((accuracy.metric.name, *("not a number" if value is None else f"{value:.4f}" for value in values)))
    return (("metric", "float", "compressed"), tuple(rows)) if rows else ((), ())


_TASK_ROWS: dict[str, Callable[[TaskMetrics], str]] = {
    "accuracy": lambda task: interval(task.accuracy, ".4f"),
    "precision": lambda task: f"{task.precision:.4f}",
    "recall": lambda task: f"{task.recall:.4f}",
    "F1": lambda task: f"{task.f1:.4f}",
}


def _counts(task: TaskMetrics) -> str:
    counts = task.counts
    assert counts is not None
    return f"{counts.true_positive} / {counts.true_negative} / {counts.false_positive} / {counts.false_negative}"


def _agreement(output: OutputAgreement) -> tuple[object, ...]:
    noise = None
    if output.cosine is not None:
        noise = "equal" if output.sqnr_db is None else f"{output.sqnr_db:.1f}"
    return (
        output.name,
        None if output.top1 is None else interval(output.top1, ".4f"),
        None if output.cosine is None else interval(output.cosine, ".5f"),
        noise,
        f"{output.max_abs_error:.3g}",
        None if output.equal is None else interval(output.equal, ".4f"),
    )


def _kernels(kernels: KernelReport) -> Section:
    if kernels.note:
        return Section("Kernels", (f"not known: {kernels.note}",))
    count = len(kernels.float_layers)
    lines = [
        f"{kernels.runtime} runs {sum(kernels.integer.values())} integer kernels, {count} weighted layers in float, "
        f"{kernels.conversions} conversions between"
    ]
    kinds: dict[str, list[str]] = {}
    for name, operator in kernels.float_layers.items():
        kinds.setdefault(operator, []).append(name)
    rows: list[tuple[object, ...]] = [
        (kernel, "integer", number, None) for kernel, number in sorted(kernels.integer.items())
    ]
    rows += [(kind, "float", len(names), _some(names)) for kind, names in sorted(kinds.items())]
    return Section("Kernels", tuple(lines), *_without_empty(("kernel", "arithmetic", "count", "layers"), tuple(rows)))


def _coverage(coverage: tuple[WeightRow, ...], verbose: bool) -> list[Section]:
    """Totals by form, then the weights that were kept and why; all of them when ``verbose``."""
    groups: dict[tuple[str, str], list[WeightRow]] = {}
    for row in coverage:
        groups.setdefault((row.form or "kept", row.scheme or "-"), []).append(row)
    totals = [(form, scheme, *_sums(rows)) for (form, scheme), rows in sorted(groups.items())]
    if len(totals) > 1:
        totals.append(("all", "", *_sums(list(coverage))))
    columns = ("form", "scheme", "weights", "before kB", "after kB", "ratio")
    lines = (*_bits(coverage), *_zeros(coverage))
    found = [Section("Weights by form", lines, columns, tuple(totals))] if totals else []
    kept = [row for row in coverage if row.form is None]
    if kept and not verbose:
        found.append(_kept(kept))
    if coverage and verbose:
        found.append(Section("All weights (bytes)", (), *_without_empty(_WEIGHT_COLUMNS, tuple(map(_weight, coverage)))))
    return found


def _bits(coverage: tuple[WeightRow, ...]) -> tuple[str, ...]:
    """Bits of a compressed weight on average, and what no code for single numbers could go below."""
    rows = [row for row in coverage if row.form is not None and row.bits is not None and row.scheme != "int32"]  # biases
    elements = sum(prod(row.shape) for row in rows)
    if not elements:
        return ()
    stored = sum(8 * row.bytes_after for row in rows) / elements
    known = [row for row in rows if row.entropy_bits is not None]
    told = f"{stored:.2f} bits a compressed weight, scales included"
    if known:
        bound = sum(prod(row.shape) * (row.entropy_bits or 0.0) for row in known) / sum(prod(row.shape) for row in known)
        told += f"; the codes' entropy is {bound:.2f} bits"
    return (told,)


def _zeros(coverage: tuple[WeightRow, ...]) -> tuple[str, ...]:
    """How many numbers pruning made zero, and what that is good for."""
    pruned = [row for row in coverage if row.pruned and row.zeros is not None]
    if not pruned:
        return ()
    zeros = sum(prod(row.shape) * (row.zeros or 0.0) for row in pruned)
    share = zeros / max(sum(prod(row.shape) for row in pruned), 1)
    lines = [
        f"{share:.1%} of the numbers in {len(pruned)} pruned weights are zero: that makes the file smaller, not the model "
        "faster, for no CPU kernel skips zeros"
    ]
    looked_up = [row.weight for row in pruned if "Gather" in row.operators and row.form != Form.FOLDED]
    if looked_up:
        lines.append(f"zeros of {_some(looked_up)} are stored like other numbers: rows are looked up among all of them")
    return tuple(lines)


def _kept(rows: list[WeightRow]) -> Section:
    """Each kept weight with its reason, or each reason with its weights where there are many."""
    if len(rows) <= LISTED:
        each = tuple((row.weight, _shape(row.shape), kilobytes(row.bytes_before), row.reason) for row in rows)
        return Section("Weights kept", (), ("weight", "shape", "kB", "reason"), each)
    reasons: dict[str, list[WeightRow]] = {}
    for row in rows:
        reasons.setdefault(row.reason or "-", []).append(row)
    grouped = tuple(
        (reason, len(group), kilobytes(sum(row.bytes_before for row in group)), _some([row.weight for row in group]))
        for reason, group in sorted(reasons.items())
    )
    return Section("Weights kept", (), ("reason", "weights", "kB", "which"), grouped)


_WEIGHT_COLUMNS = ("weight", "layers", "shape", "before", "after", "bits", "entropy", "zeros", "became")


def _weight(row: WeightRow) -> tuple[object, ...]:
    bits = None if row.bits is None else f"{row.bits:.4g}"
    entropy = None if row.entropy_bits is None else f"{row.entropy_bits:.3g}"
    zeros = None if row.zeros is None else f"{row.zeros:.1%}"
    became = f"{row.form} {row.scheme or ''}".strip() if row.form else f"kept: {row.reason or 'no reason given'}"
    shape = f"{row.dtype} {_shape(row.shape)}"
    return row.weight, _some(list(row.layers)), shape, row.bytes_before, row.bytes_after, bits, entropy, zeros, became


def _sums(rows: list[WeightRow]) -> tuple[object, ...]:
    before, after = sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)
    return len(rows), kilobytes(before), kilobytes(after), f"{after / max(before, 1):.3f}"


def _gates(report: Report) -> Section:
    rows = tuple(("passed" if gate.passed else "FAILED", gate.name, gate.message) for gate in report.gates)
    failed = sum(not gate.passed for gate in report.gates)
    line = f"{failed} of {len(rows)} gates failed" if failed else f"all {len(rows)} gates passed"
    return Section("Gates", (line,), ("result", "gate", "measured"), rows)


def interval(value: Interval, form: str) -> str:
    """A value and its interval: ``0.912 [0.894, 0.927]``."""
    if value.low is None or value.high is None:
        return f"{value.value:{form}}"
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def kilobytes(count: int) -> str:
    """Bytes in units of 1000, readable for 1 byte and for 1 GB."""
    return f"{count / 1000:,.1f}" if count < 1e7 else f"{count / 1000:,.0f}"


def _without_empty(
    columns: tuple[str, ...], rows: tuple[tuple[object, ...], ...]
) -> tuple[tuple[str, ...], tuple[tuple[object, ...], ...]]:
    """Columns that say something in at least one row."""
    used = [index for index in range(len(columns)) if any(row[index] is not None for row in rows)]
    return tuple(columns[index] for index in used), tuple(tuple(row[index] for index in used) for row in rows)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
