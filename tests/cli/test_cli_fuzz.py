"""Damaged model files are refused with our own errors; some hundred fixed damages (`tests/bench/fuzz_loader.py` goes on for longer)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from mutations import attempt, mutate
from small_models import Sample


@pytest.mark.parametrize("name", ["conv", "mlp", "embedding"])
def test_damaged_models_raise_only_our_errors(samples: dict[str, Sample], name: str, tmp_path: Path) -> None:
    content = samples[name].model.read_bytes()
    outcomes: Counter[bool] = Counter()
    for seed in range(150):
        damaged = tmp_path / "damaged.onnx"
        damaged.write_bytes(mutate(content, seed))
        outcomes[attempt(damaged) == "loaded"] += 1
    assert outcomes[False] > 75, "most damage must be seen"
    assert outcomes[True] > 0, "some damage is harmless; if none is, something else is wrong"
