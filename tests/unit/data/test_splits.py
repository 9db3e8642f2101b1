"""Splits are disjoint, cover everything, depend on the seed only, and stream; memory stays flat."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from qcompress.data import DataOptions, Dataset, open_dataset
from qcompress.errors import DataError
from qcompress.types import TensorSignature

X = (TensorSignature("x", "int64", ("batch", 2)),)


def numbered(tmp_path: Path, count: int, size: int = 1) -> Dataset:
    values = np.arange(count).repeat(2).reshape(count, 2)
    np.savez_compressed(tmp_path / "data.npz", x=values, labels=values[:, 0])
    return open_dataset(str(tmp_path / "data.npz"), X, DataOptions(batch_size=size))


def ids(data: Dataset) -> list[int]:
    found = []
    for batch in data.batches():
        assert batch.labels is not None
        assert batch.labels.tolist() == batch.feed["x"][:, 0].tolist()
        found += batch.labels.tolist()
    assert data.samples == len(found)
    return found


@pytest.mark.parametrize("size", [1, 7])
def test_split_is_disjoint_covering_and_in_order(tmp_path: Path, size: int) -> None:
    fit, held = numbered(tmp_path, 100, size).split(0.25, 0)
    assert len(ids(held)) == 25
    assert sorted(ids(fit) + ids(held)) == list(range(100))
    assert ids(held) == sorted(ids(held))


def test_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    data = numbered(tmp_path, 100)
    assert ids(data.split(0.25, 1)[1]) == ids(numbered(tmp_path, 100).split(0.25, 1)[1])
    assert ids(data.split(0.25, 1)[1]) != ids(data.split(0.25, 2)[1])


def test_split_of_a_split_stays_inside_it(tmp_path: Path) -> None:
    fit, held = numbered(tmp_path, 40).split(0.5, 0)
    inner_fit, inner_held = held.split(0.5, 0)
    assert sorted(ids(inner_fit) + ids(inner_held)) == ids(held)
    assert not set(ids(inner_fit)) & set(ids(fit))


@pytest.mark.parametrize(("fraction", "held"), [(0.0, 1), (0.01, 1), (0.5, 2), (0.99, 3), (1.0, 3)])
def test_both_parts_get_something(tmp_path: Path, fraction: float, held: int) -> None:
    parts = numbered(tmp_path, 4).split(fraction, 0)
    assert [part.samples for part in parts] == [4 - held, held]


def test_split_of_one_sample_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be split: it holds no more than one sample"):
        numbered(tmp_path, 1).split(0.25, 0)


def test_fixed_batch_split_of_one_batch_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((7, 2), np.int64))
    data = open_dataset(str(tmp_path / "a.npz"), (TensorSignature("x", "int64", (4, 2)),), DataOptions())
    with pytest.raises(DataError, match="no more than one complete batch"):
        data.split(0.25, 0)


def test_folder_is_split_by_feed(tmp_path: Path) -> None:
    for index in range(9):
        values = np.full((1 + index % 3, 2), index)
        np.savez(tmp_path / f"{index}.npz", x=values, labels=values[:, 0])
    data = open_dataset(str(tmp_path), X, DataOptions())
    fit, held = data.split(0.34, 0)
    assert len(list(held.batches())) == 3
    assert sorted(ids(fit) + ids(held)) == sorted(ids(data))
    assert not set(ids(fit)) & set(ids(held))


def test_limit_spreads_over_the_source(tmp_path: Path) -> None:
    data = numbered(tmp_path, 100)
    assert ids(data.limit(4)) == [0, 25, 50, 75]
    assert ids(data.limit(1000)) == list(range(100))
    assert ids(data.limit(1)) == [0]


def test_limit_of_uneven_feeds_stays_below(tmp_path: Path) -> None:
    for index in range(8):
        values = np.full((5 if index == 0 else 1, 2), index)
        np.savez(tmp_path / f"{index}.npz", x=values, labels=values[:, 0])
    limited = open_dataset(str(tmp_path), X, DataOptions()).limit(6)
    assert len(ids(limited)) <= 6
    assert len(ids(limited)) >= 5


@pytest.mark.parametrize("compressed", [True, False])
def test_a_100_mb_npz_is_read_with_flat_memory(tmp_path: Path, compressed: bool) -> None:
    zeros = np.zeros((512, 3, 128, 128), np.float32)  # zeros, because only their packing is fast
    (np.savez_compressed if compressed else np.savez)(tmp_path / "big.npz", x=zeros)
    assert zeros.nbytes > 100e6
    del zeros
    signature = (TensorSignature("x", "float32", ("n", 3, 128, 128)),)
    tracemalloc.start()
    try:
        data = open_dataset(str(tmp_path / "big.npz"), signature, DataOptions(batch_size=4))
        fit, held = data.split(0.25, 0)
        total = sum(batch.samples for part in (data, fit, held) for batch in part.batches())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 2 * 512
    assert peak < 20e6
