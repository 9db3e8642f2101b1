"""Last time's report as a promise: no larger, no slower, no less accurate, each within a tolerance."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.results import AccuracyReport, GateResult, LatencyReport, Report, SizeReport


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was reached last time, and how much worse it may get.

    ``size``: growth of the compressed file, 0.01 is one percent. ``speed``: share of the speed-up that may be lost.
    ``accuracy``: points that may be lost, 0.005 is half a point; of a user's own metric in its own scale.
    """

    report: Report
    size: float = 0.01
    speed: float = 0.1
    accuracy: float = 0.005


def check_baseline(
    baseline: Baseline | None, size: SizeReport, latency: LatencyReport | None, accuracy: AccuracyReport | None
) -> tuple[GateResult, ...]:
    """Compare with last time: size, speed-up and accuracy, as far as last time had them; nothing without a baseline.

    Speed-ups on other numbers of cores or threads, and accuracies of other kinds, are not compared, and the message says so.
    """
    if baseline is None:
        return ()
    found = [_size(baseline, size)]
    if baseline.report.latency is not None:
        found.append(_speed(baseline, baseline.report.latency, latency))
    if baseline.report.accuracy is not None:
        found.append(_accuracy(baseline, baseline.report.accuracy, accuracy))
    return tuple(found)


def _size(baseline: Baseline, size: SizeReport) -> GateResult:
    before, now = baseline.report.size.compressed_bytes, size.compressed_bytes
    limit = before * (1 + baseline.size)
    told = f"{now:,} bytes, {before:,} last time, {baseline.size:.3g} more allowed"
    return _result("baseline_size", limit, float(now), now <= limit, told)


def _speed(baseline: Baseline, before: LatencyReport, now: LatencyReport | None) -> GateResult:
    limit = before.speedup.value * (1 - baseline.speed)
    name = "baseline_speed"
    if now is None:
        return _unmeasured(name, limit, "latency was not measured, and it was last time")
    if (before.threads, before.cores) != (now.threads, now.cores):
        return _other(name, limit, f"last time ran on {before.cores} cores with {before.threads} threads (0: default)")
    value = now.speedup.value
    told = f"speed-up {value:.2f}x, {before.speedup.value:.2f}x last time, {baseline.speed:.3g} less allowed"
    return _result(name, limit, value, value >= limit, told)


def _accuracy(baseline: Baseline, before: AccuracyReport, now: AccuracyReport | None) -> GateResult:
    """Compare what both reports have.

    Case 1: the user's metric of one name.
    Case 2: accuracy on labels.
    Case 3: drops of one thing, such as agreement with the float model.
    """
    name, allowed = "baseline_accuracy", baseline.accuracy
    if now is None:
        return _unmeasured(name, allowed, "accuracy was not measured, and it was last time")
    if before.metric is not None or now.metric is not None:  # Case 1
        one, other = before.metric, now.metric
        if one is None or other is None or one.name != other.name or one.compressed_value is None:
            return _other(name, allowed, "it was scored by another metric last time")
        return _score(name, allowed, one.name, one.compressed_value, other.compressed_value)
    if before.compressed_task is not None and now.compressed_task is not None:  # Case 2
        values = before.compressed_task.accuracy.value, now.compressed_task.accuracy.value
        return _score(name, allowed, "accuracy", *values)
    if before.drop is None or now.drop is None or before.drop_of != now.drop_of:  # Case 3
        return _other(name, allowed, f"last time had {before.drop_of or 'no drop'}, this time {now.drop_of or 'none'}")
    limit = before.drop.value + allowed
    told = f"drop of {now.drop_of or 'accuracy'} {now.drop.value:.4f}, {before.drop.value:.4f} last time"
    return _result(name, limit, now.drop.value, now.drop.value <= limit, f"{told}, {allowed:g} more allowed")


def _score(name: str, allowed: float, what: str, before: float, now: float | None) -> GateResult:
    limit = before - allowed
    if now is None:
        return _unmeasured(name, limit, f"{what} gave no number, and it was {before:.4f} last time")
    return _result(name, limit, now, now >= limit, f"{what} {now:.4f}, {before:.4f} last time, {allowed:g} less allowed")


def _result(name: str, limit: float, value: float, passed: bool, told: str) -> GateResult:
    return GateResult(name, limit, value, passed, told if passed else f"{told}: worse than the baseline")


def _unmeasured(name: str, limit: float, why: str) -> GateResult:
    return GateResult(name, limit, None, False, why)


def _other(name: str, limit: float, why: str) -> GateResult:
    return GateResult(name, limit, None, True, f"not compared: {why}")
