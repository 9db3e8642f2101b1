"""Whatever is wrong with the data is one clear DataError that says what, where and what to do."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcompress.data import DataOptions, ImageOptions, Limits, open_dataset
from qcompress.errors import DataError, ExitCode, UsageError
from qcompress.types import TensorSignature

X = TensorSignature("x", "float32", ("batch", 4))
IDS = TensorSignature("input_ids", "int64", ("batch", "sequence"))
MASK = TensorSignature("attention_mask", "int64", ("batch", "sequence"))
GOOD = np.ones((6, 4), np.float32)


def consume(path: Path, *signature: TensorSignature, limits: Limits | None = None) -> None:
    for _ in open_dataset(str(path), signature or (X,), DataOptions(limits=limits or Limits())).batches():
        pass


def refused(path: Path, *signature: TensorSignature, limits: Limits | None = None) -> str:
    with pytest.raises(DataError) as caught:
        consume(path, *signature, limits=limits)
    assert caught.value.exit_code is ExitCode.UNUSABLE
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def with_value(value: float, index: int) -> Any:
    array = GOOD.copy()
    array[index, 2] = value
    return array


def test_missing_path_names_the_nearest_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", x=GOOD)
    message = refused(tmp_path / "calibs.npz")
    assert "there is no data at" in message
    assert "did you mean" in message
    assert "calib.npz" in message
    assert "module:function" in refused(tmp_path / "far" / "away")


def test_other_files_and_empty_folders_list_what_data_can_be(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2")
    assert "not data that can be read (data can be: random; samples.npz" in refused(tmp_path / "data.csv")
    (tmp_path / "empty").mkdir()
    assert "is an empty folder" in refused(tmp_path / "empty")


def test_missing_and_extra_names_name_the_nearest(tmp_path: Path) -> None:
    ids = np.ones((2, 3), np.int64)
    assert refused(save(tmp_path, inputs_ids=ids, attention_mask=ids), IDS, MASK) == (
        "data.npz has no array for the model's input 'input_ids' (is 'inputs_ids' meant to be it?)"
    )
    assert (
        "has no array for the model's input 'attention_mask' (the model's inputs are input_ids, attention_mask)"
        in refused(save(tmp_path, input_ids=ids), IDS, MASK)
    )
    assert "has 'x1', which is not an input of the model (did you mean 'x'?)" in refused(save(tmp_path, x=GOOD, x1=GOOD))
    assert "true classes go by the name 'labels'" in refused(save(tmp_path, x=GOOD, target=np.arange(6)))


@pytest.mark.parametrize(
    ("array", "signature", "message"),
    [
        (
            GOOD.astype(np.uint8),
            X,
            "is uint8, but the model wants float32 (store it as float32, after the same normalisation",
        ),
        (GOOD, IDS, "is float32, but the model wants int64"),
        (
            np.ones((2, 3), np.int64),
            TensorSignature("input_ids", "int32", ("b", "s")),
            "is int64, but the model wants int32",
        ),
        (np.ones((2, 3), np.uint64), IDS, "is uint64, but the model wants int64"),
        (GOOD, TensorSignature("x", "float16", ("b", 4)), "is float32, but the model wants float16"),
        (np.array(["a", "b"]), TensorSignature("x", "float32", ("b",)), "is <U1, but the model wants float32"),
        (np.ones((6, 5), np.float32), X, "of sample 0 of data.npz has shape (1, 5), but the model wants (batch, 4)"),
        (np.ones(6, np.float32), X, "has shape (6,) in data.npz: x, but the model wants (batch, 4)"),
        (np.ones((6, 1, 1, 4), np.float32), X, "the first axis is samples"),
        (np.ones((6, 1, 5), np.float32), X, "of sample 0 of data.npz has shape (1, 5), but the model wants (batch, 4)"),
        (np.ones((0, 4), np.float32), X, "holds no samples"),
        (np.ones((6, 0), np.float32), TensorSignature("x", "float32", ("b", "n")), "samples without elements"),
        (with_value(np.nan, 4), X, "input 'x' of sample 4 of data.npz has NaN values"),
        (with_value(-np.inf, 5), X, "input 'x' of sample 5 of data.npz has infinite values"),
        (np.full((2, 4), 1e300), X, "sample 0 of data.npz has infinite values"),
        (GOOD, TensorSignature("x", "sequence(tensor(float))", None), "is a sequence(tensor(float)), not a tensor"),
    ],
)
def test_arrays_that_do_not_fit_name_the_input(tmp_path: Path, array: Any, signature: TensorSignature, message: str) -> None:
    text = refused(save(tmp_path, **{signature.name: array}), signature)
    assert message in text
    assert signature.name in text or "holds no samples" in text


@pytest.mark.parametrize(
    ("given", "wanted", "note"),
    [
        ("int32", "int64", True),
        ("float64", "float32", True),
        ("uint8", "int32", True),
        ("float16", "float32", True),
        ("float32", "float32", False),
    ],
)
def test_exact_widenings_are_made_and_noted(tmp_path: Path, given: str, wanted: str, note: bool) -> None:
    data = open_dataset(
        str(save(tmp_path, x=np.arange(8).reshape(2, 4).astype(given))),
        (TensorSignature("x", wanted, ("b", 4)),),
        DataOptions(),
    )
    batches = list(data.batches())
    assert batches[1].feed["x"].dtype == wanted
    assert batches[1].feed["x"].tolist() == [[4, 5, 6, 7]]
    assert data.notes == ((f"input 'x' is {given} in the data and was converted to {wanted}",) if note else ())


def test_different_sample_counts_list_them(tmp_path: Path) -> None:
    ids = np.ones((3, 3), np.int64)
    message = refused(save(tmp_path, input_ids=ids, attention_mask=ids[:2]), IDS, MASK)
    assert "(attention_mask: 2, input_ids: 3)" in message


def test_labels_must_be_numbers_one_row_a_sample(tmp_path: Path) -> None:
    assert "(labels: 5, x: 6)" in refused(save(tmp_path, x=GOOD, labels=np.arange(5)))
    assert "(labels: 1, x: 6)" in refused(save(tmp_path, x=GOOD, labels=np.int64(3)))
    assert "labels of sample 0 of data.npz have type <U3" in refused(save(tmp_path, x=GOOD, labels=np.array(["cat"] * 6)))


def test_inputs_of_different_fixed_batches_cannot_be_batched(tmp_path: Path) -> None:
    one, other = TensorSignature("x", "float32", (2, 4)), TensorSignature("y", "float32", (3, 4))
    assert "different first axes (x: 2, y: 3)" in refused(save(tmp_path, x=GOOD, y=GOOD), one, other)
    exact = np.ones((6, 3, 4), np.float32)
    assert "mixes complete feeds (y)" in refused(save(tmp_path, x=GOOD, y=exact), one, other)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    objects = np.array([Bomb(), 1], dtype=object)
    np.savez(tmp_path / "objects.npz", x=objects)
    np.save(tmp_path / "objects.npy", objects)
    np.savez(tmp_path / "labels.npz", x=GOOD, labels=objects)
    for name in ("objects.npz", "objects.npy", "labels.npz"):
        assert "holds pickled Python objects, which are never loaded" in refused(tmp_path / name)
    (tmp_path / "raw.npz").write_bytes(b"\x80\x04\x95 a pickle, not a zip")
    assert "raw.npz cannot be read: File is not a zip file" in refused(tmp_path / "raw.npz")
    assert not marker.exists()


def test_truncated_files_are_errors_wherever_they_are_cut(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
    np.save(tmp_path / "a.npy", GOOD)
    for name in ("a.npz", "a.npy"):
        content = (tmp_path / name).read_bytes()
        for cut in range(0, len(content), 7):
            (tmp_path / f"cut.{name[-3:]}").write_bytes(content[:cut])
            assert "cut." in refused(tmp_path / f"cut.{name[-3:]}")


def test_damaged_bytes_give_a_data_error_or_data_but_never_another_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    np.savez_compressed(tmp_path / "a.npz", x=generator.standard_normal((20, 4)).astype(np.float32))
    np.savez(tmp_path / "b.npz", x=GOOD)
    np.save(tmp_path / "c.npy", GOOD)
    refusals = 0
    for name in ("a.npz", "b.npz", "c.npy"):
        content = bytearray((tmp_path / name).read_bytes())
        for _ in range(150):
            broken = content.copy()
            for position in generator.integers(0, len(content), generator.integers(1, 4)):
                broken[position] = generator.integers(0, 256)
            path = tmp_path / f"broken{name[-4:]}"
            path.write_bytes(broken)
            try:
                consume(path)
            except DataError:
                refusals += 1
    assert refusals > 200


def npy_bytes(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_header_that_promises_more_than_the_file_holds_is_damage(tmp_path: Path) -> None:
    content = npy_bytes(GOOD).replace(b"(6, 4)", b"(9, 4)")
    (tmp_path / "a.npy").write_bytes(content)
    assert "its header says 144 bytes of numbers, the file holds 96" in refused(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    assert "its header says 144 bytes" in refused(tmp_path / "a.npz")


def test_a_trillion_empty_samples_are_refused_at_once(tmp_path: Path) -> None:
    content = npy_bytes(np.ones((6, 0), np.float32)).replace(b"(6, 0), }        ", b"(999999999, 0), }")
    assert b"999999999" in content
    (tmp_path / "a.npy").write_bytes(content)
    assert "samples without elements" in refused(tmp_path / "a.npy", TensorSignature("x", "float32", ("b", "n")))


def test_zip_bombs_are_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((100_000, 4), np.float32))
    assert "unpacks to 0.0 GB, more than the limit" in refused(path, limits=Limits(max_bytes=100_000))
    message = refused(path, limits=Limits(max_ratio=100, ratio_floor=1_000_000))
    assert "times its size" in message
    assert "zip bomb" in message
    consume(path, limits=Limits(max_ratio=100, ratio_floor=10_000_000))


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, x=GOOD)
    content = path.read_bytes()
    size = zipfile.ZipFile(path).infolist()[0].file_size
    central = content.rindex(b"PK\x01\x02")
    # The uncompressed size is the 4 bytes at offset 24 of a central directory entry.
    assert struct.unpack_from("<I", content, central + 24)[0] == size
    lie = bytearray(content)
    struct.pack_into("<I", lie, central + 24, 1 << 30)
    path.write_bytes(lie)
    assert "its header says 96 bytes of numbers, the file holds" in refused(path)
    assert "limit" in refused(path, limits=Limits(max_bytes=1 << 29))
    struct.pack_into("<I", lie, central + 24, 0xFFFFFFF0)
    path.write_bytes(lie)
    assert "zip bomb" in refused(path)


def test_a_large_npy_is_refused_by_the_limit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GOOD)
    assert "holds 0.0 GB" in refused(tmp_path / "a.npy", limits=Limits(max_bytes=50))


def test_npz_without_arrays_is_refused(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "a.npz", "w").close()
    assert "a.npz holds no arrays" in refused(tmp_path / "a.npz")


def test_folder_errors_name_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=GOOD)
    np.savez(tmp_path / "1.npz", x=GOOD[:, :3])
    assert "input 'x' of 1.npz has shape (6, 3), but the model wants (batch, 4)" in refused(tmp_path)
    np.savez(tmp_path / "1.npz", x=with_value(np.nan, 0))
    assert "input 'x' of 1.npz has NaN values" in refused(tmp_path)
    np.savez(tmp_path / "1.npz", x=GOOD, labels=np.arange(5))
    assert "1.npz has labels of shape (5,) for 6 samples" in refused(tmp_path)
    np.savez(tmp_path / "1.npz", x=GOOD[:0])
    assert "1.npz: x is empty" in refused(tmp_path)
    (tmp_path / "1.npz").write_bytes(b"PK\x03\x04")
    assert "1.npz cannot be read" in refused(tmp_path)


def test_impossible_options_are_usage_errors() -> None:
    for make in (
        lambda: DataOptions(batch_size=0),
        lambda: DataOptions(random_samples=0),
        lambda: ImageOptions(size=(0, 5)),
        lambda: ImageOptions(std=(0.0,)),
    ):
        with pytest.raises(UsageError):
            make()
