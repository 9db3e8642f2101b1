"""Promises checked: each limit the user asked for against what was measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields

from qcompress.results import AccuracyReport, GateResult, Gates, Interval, LatencyReport, SizeReport


def check_gates(
    gates: Gates, size: SizeReport, latency: LatencyReport | None, accuracy: AccuracyReport | None
) -> tuple[GateResult, ...]:
    """Check every gate that was asked for, in the order of ``Gates``; one that was not measured fails and says what it needs.

    Measured values count as they are, not the unfavourable ends of their intervals; the messages show the intervals.
    """
    checks: dict[str, Callable[[float], GateResult]] = {
        "max_accuracy_drop": lambda limit: _check_drop(limit, accuracy),
        "min_speedup": lambda limit: _check_speedup(limit, latency),
        "max_size_ratio": lambda limit: _check_size(limit, size),
        "min_sqnr": lambda limit: _check_sqnr(limit, accuracy),
    }
    asked = [(item.name, getattr(gates, item.name)) for item in fields(gates)]
    return tuple(checks[name](float(limit)) for name, limit in asked if limit is not None)


IN_THE_WAY = re.compile(" is not | no candidate |^no candidate ")
"""What notes of a plan that say why it could do no better have in them."""

SLOWER = 0.95
"""Below this the compressed model is slower beyond what two loads of one model differ by on a busy machine."""

SLOWER_IN_FEW_ROUNDS = 0.8
FEW_ROUNDS = 25
"""In fewer rounds a burst of other work can move the whole interval: a model against itself came out at 0.86 in seven."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What is promised of accuracy when nobody sets a limit.

    ``budget``: what may be lost. ``judged``: outputs that count without labels.
    """

    budget: float
    judged: Collection[str]


def check_promise(
    gates: Gates, latency: LatencyReport | None, accuracy: AccuracyReport | None = None, promise: Promise | None = None
) -> tuple[GateResult, ...]:
    """Fail when nobody set a limit and the result is clearly slower, or less accurate, than the original all the same.

    Args:
        gates: limits the user set; they count instead.
        latency: of both models.
        accuracy: of both models, on data that nothing was chosen on.
        promise: None promises nothing of accuracy.
    """
    return (*_never_slower(gates, latency), *_as_accurate(gates, accuracy, promise))


def check_budget(loss: float | None, budget: float | None, notes: Sequence[str] = ()) -> tuple[GateResult, ...]:
    """The loss of a plan, as measured when it was made, against its budget; nothing for a plan that was not searched.

    Args:
        loss: of agreement with the float model, 0 to 1.
        budget: what may be lost.
        notes: of the plan; those that say what stood in the way go into the message, the first three.
    """
    if loss is None or budget is None:
        return ()
    told = f"budget {budget:g} of agreement, used {loss:.2g}"
    if loss <= budget:
        return (GateResult("accuracy_budget", budget, loss, True, told),)
    reasons = [note for note in notes if IN_THE_WAY.search(note)][:3]
    return (GateResult("accuracy_budget", budget, loss, False, "; ".join([told, *reasons])),)


def _never_slower(gates: Gates, latency: LatencyReport | None) -> tuple[GateResult, ...]:
    if gates.min_speedup is not None or latency is None:
        return ()
    speedup = latency.speedup
    limit = SLOWER if latency.rounds >= FEW_ROUNDS else SLOWER_IN_FEW_ROUNDS
    if speedup.high is None or speedup.high >= limit:
        return ()
    told = f"slower than the original: {speedup.value:.2f}x{_range(speedup, '.2f')}; recipe int8-weights keeps float speed"
    return (GateResult("never_slower", 1.0, speedup.value, False, told),)


def _as_accurate(gates: Gates, accuracy: AccuracyReport | None, promise: Promise | None) -> tuple[GateResult, ...]:
    """Fail when the whole interval of the drop lies above the budget."""
    if gates.max_accuracy_drop is not None or promise is None or accuracy is None:
        return ()
    drop, drop_of = _promised_drop(accuracy, promise.judged)
    if drop is None or drop.low is None or drop.low <= promise.budget:
        return ()
    told = f"drop of {drop_of} {drop.value:.4f}{_range(drop, '.4f')}, clearly above {promise.budget:g}"
    return (GateResult("as_accurate", promise.budget, drop.value, False, f"{told}; --max-accuracy-drop sets another limit"),)


def _promised_drop(accuracy: AccuracyReport, judged: Collection[str]) -> tuple[Interval | None, str]:
    """The drop that counts unasked, and of what.

    A user's own metric has a scale of its own. An arg-max that changed, without labels, may as well have become right.
    """
    if accuracy.metric is not None:
        return None, ""
    if accuracy.float_task is not None:
        return accuracy.drop, accuracy.drop_of or "accuracy"
    if any(output.top1 is not None for output in accuracy.agreement):
        return None, ""
    cosines = [(output.cosine, output.name) for output in accuracy.agreement if output.cosine and output.name in judged]
    if not cosines:
        return None, ""
    worst, name = min(cosines, key=lambda item: item[0].value)
    low, high = (None if end is None else 1.0 - end for end in (worst.high, worst.low))
    return Interval(1.0 - worst.value, low, high), f"cosine of {name} with the float model"


def _check_drop(limit: float, accuracy: AccuracyReport | None) -> GateResult:
    name = "max_accuracy_drop"
    if accuracy is None:
        return _unmeasured(name, limit, "accuracy was not measured: it needs --eval-data, or --data of 4 samples or more")
    if accuracy.drop is None:
        why = f"{accuracy.metric.name} gave no number" if accuracy.metric else "no output could be compared"
        return _unmeasured(name, limit, f"there is no accuracy drop: {why}")
    drop = accuracy.drop
    told = f"drop of {accuracy.drop_of or 'accuracy'} {drop.value:.4f}{_range(drop, '.4f')}"
    excess = drop.value - limit
    return _result(name, limit, drop.value, excess, f"{told}, at most {limit:g} allowed", f"{excess:.4f} too much")


def _check_speedup(limit: float, latency: LatencyReport | None) -> GateResult:
    name = "min_speedup"
    if latency is None:
        return _unmeasured(name, limit, "latency was not measured: it needs --data or --eval-data, and no --no-latency")
    speedup = latency.speedup
    told = f"speed-up {speedup.value:.2f}x{_range(speedup, '.2f')}, at least {limit:g}x asked"
    shortfall = limit - speedup.value
    return _result(name, limit, speedup.value, shortfall, told, f"{shortfall:.3g}x short")


def _check_size(limit: float, size: SizeReport) -> GateResult:
    excess = size.ratio - limit
    told = f"size ratio {size.ratio:.3f}, at most {limit:g} allowed"
    surplus = f"{excess:.3g} too much, {size.compressed_bytes - int(limit * size.float_bytes):,} bytes"
    return _result("max_size_ratio", limit, size.ratio, excess, told, surplus)


def _check_sqnr(limit: float, accuracy: AccuracyReport | None) -> GateResult:
    name = "min_sqnr"
    if accuracy is None:
        return _unmeasured(name, limit, "accuracy was not measured: it needs --eval-data, or --data of 4 samples or more")
    outputs = [output for output in accuracy.agreement if output.cosine is not None]
    if not outputs:
        return _unmeasured(name, limit, "the model has no float output to compute an SQNR of")
    noisy = [(output.sqnr_db, output.name) for output in outputs if output.sqnr_db is not None]
    if not noisy:
        return GateResult(name, limit, None, True, f"outputs are equal, so above {limit:g} dB")
    worst, output_name = min(noisy)
    shortfall = limit - worst
    told = f"SQNR of {output_name} {worst:.1f} dB, at least {limit:g} dB asked"
    return _result(name, limit, worst, shortfall, told, f"{shortfall:.3g} dB short")


def _result(name: str, limit: float, value: float, excess: float, told: str, shortfall: str) -> GateResult:
    passed = excess <= 0.0  # False for NaN, too
    return GateResult(name, limit, value, passed, told if passed else f"{told}: {shortfall}")


def _unmeasured(name: str, limit: float, why: str) -> GateResult:
    return GateResult(name, limit, None, False, why)


def _range(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:{form}}, {interval.high:{form}}]"
