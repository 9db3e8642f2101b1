"""What onnxruntime's own tools make of a model: quantize_static (MinMax, per channel, U8S8, QDQ) and quantize_dynamic."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.version_converter
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from steps import run_step

from qcompress.data import DataOptions, open_dataset
from qcompress.graph import model_files
from qcompress.runtime import open_session
from qcompress.types import Feed

TIMEOUT = 300.0
PER_CHANNEL = 13
"""The first operator set with a scale per channel; below it the tool writes models that do not load."""


def calibration_feeds(model: Path, data: Path) -> Iterator[Feed]:
    """The feeds of a data file as ``qcompress --data`` reads them."""
    outputs = open_session(model)
    names = tuple(output.name for output in outputs.outputs)
    for batch in open_dataset(str(data), outputs.inputs, DataOptions(), output_names=names).batches():
        yield batch.feed


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the base has no types
    def __init__(self, model: Path, data: Path) -> None:
        self.feeds = calibration_feeds(model, data)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def static(model: Path, data: Path, target: Path) -> None:
    """quantize_static after its own preprocessing."""
    logging.disable(logging.WARNING)
    model, data, target = model.resolve(), data.resolve(), target.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a failed shape inference leaves a file behind
        prepared = Path(folder) / "prepared.onnx"
        _prepare(model, prepared)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(model, data),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def dynamic(model: Path, data: Path, target: Path) -> None:
    """quantize_dynamic with its defaults; it needs no data."""
    logging.disable(logging.WARNING)
    quantize_dynamic(str(model), str(target), weight_type=QuantType.QInt8)


def _prepare(model: Path, prepared: Path) -> None:
    """The tool's own preprocessing, with symbolic shapes where that works, and a sufficient operator set."""
    try:
        quant_pre_process(str(model), str(prepared))
    except Exception:  # symbolic shape inference gives up on many models, with many classes
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    opsets = {item.domain: item.version for item in onnx.load(prepared, load_external_data=False).opset_import}
    if opsets[""] < PER_CHANNEL:
        onnx.save(onnx.version_converter.convert_version(onnx.load(prepared), PER_CHANNEL), prepared)


TOOLS = {"static": static, "dynamic": dynamic}


def stock_model(tool: str, model: Path, data: Path, cache: Path, fresh: bool) -> tuple[Path, str]:
    """Where the tool's model is and why there is none; made once per model, data and version of the runtime."""
    folder = cache / f"{model.stem}-{tool}-{_key(model, data)}"
    target, record = folder / "model.onnx", folder / "outcome.json"
    if fresh or not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run_step(TOOLS[tool], model, data, target, timeout=TIMEOUT)
        record.write_text(json.dumps({"error": outcome.error, "seconds": outcome.seconds, "peak_mb": outcome.peak_mb}))
    return target, json.loads(record.read_text())["error"]


def _key(model: Path, data: Path) -> str:
    digest = hashlib.sha256(onnxruntime.__version__.encode())
    for file in (*model_files(model), data):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
