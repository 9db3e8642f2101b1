"""Print the accuracy of each sample model on its evaluation set, by onnxruntime and numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
BATCH = 100


def accuracy(model: Path) -> tuple[float, int]:
    """Return the accuracy of `model` on the .eval.npz file beside it, and the number of its samples."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with np.load(model.with_suffix(".eval.npz")) as data:
        labels = data["labels"]
        inputs = {node.name: data[node.name] for node in session.get_inputs()}
    right = 0
    for first in range(0, len(labels), BATCH):
        part = slice(first, first + BATCH)
        logits = session.run(["logits"], {name: values[part] for name, values in inputs.items()})[0]
        right += int((logits.argmax(axis=1) == labels[part]).sum())
    return right / len(labels), len(labels)


def main() -> None:
    """Evaluate every model in this folder."""
    for model in sorted(HERE.glob("*.onnx")):
        score, samples = accuracy(model)
        print(f"{model.stem}: accuracy {score:.4f} on {samples} samples")


if __name__ == "__main__":
    main()
