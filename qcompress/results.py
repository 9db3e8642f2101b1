"""What a run found out, as values: the report is these dataclasses laid out, nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qcompress.errors import ExitCode

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its 95 % confidence interval (None where none can be given)."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class WeightRow:
    """What became of one weight: a form, or the reason it was kept.

    ``layers``: names of the nodes that use it. ``bytes_before`` and ``bytes_after`` include scales and zero points, and so
    do ``bits`` of one number. ``entropy_bits``: what its code could not be stored in less than, each by itself. ``zeros``: the
    share of its numbers that are zero. ``pruned``: whether some of them were made so.
    """

    weight: str
    layers: tuple[str, ...]
    operators: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    bytes_before: int
    bytes_after: int
    form: str | None = None
    scheme: str | None = None
    bits: float | None = None
    reason: str | None = None
    entropy_bits: float | None = None
    zeros: float | None = None
    pruned: bool = False


@dataclass(frozen=True, slots=True)
class SizeReport:
    """Bytes on disk, external data included, and of the weights by type (``{"float32": bytes}``).

    ``gzip_bytes``: of the compressed files after a further gzip, None when they are too large to try.
    """

    float_bytes: int
    compressed_bytes: int
    float_weights: Mapping[str, int]
    compressed_weights: Mapping[str, int]
    gzip_bytes: int | None = None

    @property
    def ratio(self) -> float:
        """Compressed file over float file: 0.25 is a quarter of the size."""
        return self.compressed_bytes / max(self.float_bytes, 1)


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """Milliseconds of one run of each model, measured in turns (A, B, B, A, ...) on the same feeds.

    ``speedup``: median over rounds of float time / compressed time. ``threads``: 0 is the runtime's default on a
    machine of ``cores`` logical cores. ``feed_shapes``: shapes of the first feed. ``runs``: timed runs of each model.
    """

    float_p50_ms: float
    float_p90_ms: float
    compressed_p50_ms: float
    compressed_p90_ms: float
    speedup: Interval
    rounds: int
    threads: int
    feed_shapes: Mapping[str, tuple[int, ...]]
    runs: int = 0
    cores: int = 0
    runtime: str = ""
    spinning: bool = False
    """Whether idle threads waited busily; two live models would then slow each other."""


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How close one output of the compressed model is to the float model's, over all evaluated samples.

    ``cosine``: mean over samples, None for outputs that are not float. ``sqnr_db``: signal to quantization noise in dB
    (None when equal). ``max_abs_error``: over values finite in both. ``top1``: share of positions with the same arg-max
    along the class axis, for outputs that look like class scores. ``equal``: share of equal values, for outputs that are
    not float. ``lost_samples``: samples where the compressed output has NaN or infinite values the float model does not
    have, or another shape; each counts as cosine 0, agreement 0 and noise as large as the signal.
    """

    name: str
    cosine: Interval | None
    sqnr_db: float | None
    max_abs_error: float
    top1: Interval | None = None
    equal: Interval | None = None
    lost_samples: int = 0


@dataclass(frozen=True, slots=True)
class BinaryCounts:
    """TP, TN, FP and FN with class 1 as the positive."""

    true_positive: int
    true_negative: int
    false_positive: int
    false_negative: int


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """Classification quality of one model against labels; precision, recall and F1 are macro for more than two classes."""

    accuracy: Interval
    precision: float
    recall: float
    f1: float
    counts: BinaryCounts | None = None


@dataclass(frozen=True, slots=True)
class MetricPair:
    """A user's metric on both models (higher is better); None where it came out as NaN or infinite."""

    name: str
    float_value: float | None
    compressed_value: float | None


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """What the compressed model can still do, on data that nothing was fitted on."""

    samples: int
    source: str
    agreement: tuple[OutputAgreement, ...]
    float_task: TaskMetrics | None = None
    compressed_task: TaskMetrics | None = None
    drop: Interval | None = None
    """What was lost (0.01 is one point): of the user's metric, else of accuracy against the labels, paired over samples,
    else of agreement with the float model."""
    drop_of: str = ""
    """What the drop is a drop of, in words."""
    scored_output: str | None = None
    """The output that was compared with the labels."""
    metric: MetricPair | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What onnxruntime really runs after its own optimization of the compressed model.

    ``integer``: kernel name -> count. ``float_layers``: weighted operators still in float (name -> operator).
    """

    integer: Mapping[str, int]
    float_layers: Mapping[str, str]
    conversions: int
    """QuantizeLinear and DequantizeLinear nodes left in the optimized graph."""
    runtime: str
    note: str = ""
    """Why nothing could be counted, if so."""


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Milliseconds of one kernel of a model, as the runtime runs it.

    ``name``: of the node in the runtime's own graph. ``kernel``: its operator. ``inputs`` and ``outputs``: names of
    tensors in that graph, empty where the graph could not be seen.
    """

    name: str
    kernel: str
    ms: float
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Where times were measured: they hold for this machine, thread count (0: the runtime's default) and runtime alone."""

    cpu: str
    architecture: str
    cores: int
    threads: int
    runtime: str


@dataclass(frozen=True, slots=True)
class GateResult:
    """One promise checked: ``value`` against ``limit``; ``passed`` False makes the exit code 1.

    ``name``: the field of ``Gates``, or what is promised without one. ``value``: None when it was not measured or is without bound.
    """

    name: str
    limit: float
    value: float | None
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits asked for; None is not asked. Drops and ratios are fractions, ``min_sqnr`` is in dB."""

    max_accuracy_drop: float | None = None
    min_speedup: float | None = None
    max_size_ratio: float | None = None
    min_sqnr: float | None = None


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Where the numbers come from: sources, sample counts, and whether calibration was random."""

    calibration: str | None = None
    calibration_samples: int = 0
    evaluation: str | None = None
    evaluation_samples: int = 0
    random: bool = False
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run found out; knows its exit code."""

    source: str
    target: str
    recipe: str
    data: DataFacts
    size: SizeReport
    latency: LatencyReport | None
    accuracy: AccuracyReport | None
    kernels: KernelReport | None
    coverage: tuple[WeightRow, ...]
    gates: tuple[GateResult, ...] = ()
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> ExitCode:
        """DONE, or GATE_FAILED when a gate did."""
        return ExitCode.DONE if all(gate.passed for gate in self.gates) else ExitCode.GATE_FAILED
