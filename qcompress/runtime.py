"""The only door to onnxruntime: open a model, run it, see what it became."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # since 1.29 its wheels report to their maker unless told not to

import onnxruntime as ort

from qcompress.errors import ModelError
from qcompress.types import ROOT, Array, Feed, TensorSignature


class Optimization(StrEnum):
    """How far the runtime may rewrite the graph at load."""

    ALL = "all"
    BASIC = "basic"
    DISABLED = "disabled"


_LEVELS = {
    Optimization.ALL: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    Optimization.BASIC: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    Optimization.DISABLED: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

_KERNEL = "_kernel_time"
"""How the names of kernel calls end in a profile."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to open a session; ``threads`` 0 lets the runtime use all cores."""

    threads: int = 0
    optimization: Optimization = Optimization.ALL
    optimized_model: Path | None = None
    """Where to save the graph as the runtime will really run it."""
    early_release: bool = False
    """Run observers as soon as their input exists, so that activations are freed early (PRIORITY_BASED order)."""
    spinning: bool = True
    """Let idle threads wait busily, as the runtime does by default; off while several sessions take turns."""
    arena: bool = True
    """Keep the memory of activations for the next run; off while many sessions are open, each of which would keep its own."""
    profile: Path | None = None
    """Where the runtime writes down every kernel call, a file name without its end; see ``Session.stop_profiling``."""


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One call of a kernel: the run it belongs to (from 0), its node's name, the operator and the time it took."""

    run: int
    name: str
    kernel: str
    microseconds: float


class Session:
    """A model loaded by onnxruntime on the CPU."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.inputs = tuple(_signature(node) for node in session.get_inputs())
        self.outputs = tuple(_signature(node) for node in session.get_outputs())

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run one feed and return the named outputs (all of them by default).

        Raises:
            ModelError: the runtime refuses the feed or fails while running.
        """
        names = list(outputs) if outputs is not None else [output.name for output in self.outputs]
        try:
            values = self._session.run(names, dict(feed))
        except Exception as error:  # the runtime raises many unrelated classes
            raise ModelError(
                f"the model failed to run: {first_line(error)}", "check that the data fits the model"
            ) from error
        return dict(zip(names, values, strict=True))

    def stop_profiling(self) -> tuple[KernelEvent, ...]:
        """The kernel calls of all runs so far, in order, and an end to writing them down; the file is removed.

        A session opened without ``profile`` has none. Calls inside the bodies of control flow are part of their node's call.
        """
        name = str(self._session.end_profiling())
        if not name:
            return ()
        file = Path(name)
        events = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        return _kernel_events(events)


def open_session(model: bytes | Path, settings: SessionSettings | None = None) -> Session:
    """Load a model: serialized, with external data under ROOT, or a file beside its external data.

    Raises:
        ModelError: the runtime cannot load it.
    """
    settings = settings or SessionSettings()
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[settings.optimization]
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if settings.optimized_model is not None:
        options.optimized_model_filepath = str(settings.optimized_model)
        # Weights go to a file beside it: a message of over 2 GiB cannot be written.
        weights = settings.optimized_model.name + ".data"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = settings.arena
    if settings.profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(settings.profile)
    if settings.early_release:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if isinstance(model, bytes):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(ROOT))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the runtime warns about its own serialization of optimized models
            source: Any = model if isinstance(model, bytes) else str(model)
            return Session(ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # the runtime raises many unrelated classes
        raise ModelError(
            f"onnxruntime cannot load the model: {first_line(error)}", "see whether the original loads"
        ) from error


def _kernel_events(events: Sequence[Mapping[str, Any]]) -> tuple[KernelEvent, ...]:
    """The calls of the main graph's kernels out of a profile.

    A run is an event that lasts as long as its kernels together; a kernel that starts before the one before it has ended
    belongs to a body of that one.
    """
    runs = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run")
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)]
    kernels.sort(key=lambda event: (event["ts"], -event["dur"]))
    found: list[KernelEvent] = []
    run, end = 0, 0
    for event in kernels:
        start = event["ts"]
        while run < len(runs) and start > runs[run][1]:
            run += 1
        if start < end:
            continue
        end = start + event["dur"]
        found.append(KernelEvent(run, event["name"].removesuffix(_KERNEL), event["args"]["op_name"], float(event["dur"])))
    return tuple(found)


def version() -> str:
    """The version of onnxruntime in use."""
    return str(ort.__version__)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _signature(node: Any) -> TensorSignature:
    shape = None if node.shape is None else tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in node.shape)
    return TensorSignature(node.name, _DTYPES.get(node.type, node.type), shape)
