"""Every kind of source, on real files."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from qcompress.data import SOURCES, Batch, Colour, DataOptions, Dataset, ImageOptions, Layout, Resize, open_dataset
from qcompress.errors import DataError
from qcompress.types import Array, TensorSignature

IMAGE = (TensorSignature("x", "float32", ("batch", 3, 4, 5)),)
TEXT = (TensorSignature("ids", "int64", ("batch", "sequence")), TensorSignature("mask", "int64", ("batch", "sequence")))


def floats(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def read(data: Dataset) -> list[Batch]:
    return list(data.batches())


def opened(spec: object, signature: tuple[TensorSignature, ...] = IMAGE, size: int = 1) -> Dataset:
    return open_dataset(str(spec), signature, DataOptions(batch_size=size))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_batches_of_samples_with_labels(tmp_path: Path, save: Callable[..., None]) -> None:
    x, labels = floats(10, 3, 4, 5), np.arange(10, dtype=np.uint8)
    save(tmp_path / "calib.npz", x=x, labels=labels)
    data = opened(tmp_path / "calib.npz", size=4)
    batches = read(data)
    assert [batch.samples for batch in batches] == [4, 4, 2]
    assert data.samples == 10
    assert data.has_labels
    assert not data.random
    np.testing.assert_array_equal(np.concatenate([batch.feed["x"] for batch in batches]), x)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), labels)


def test_npz_can_be_read_again_and_keeps_what_the_user_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "calib.npz", x=floats(3, 3, 4, 5))
    monkeypatch.chdir(tmp_path)
    data = opened("calib.npz")
    assert data.source == "calib.npz"
    assert len(read(data)) == len(read(data)) == 3


def test_npz_with_one_axis_more_holds_exact_feeds(tmp_path: Path) -> None:
    x = floats(6, 1, 3, 4, 5)
    np.savez(tmp_path / "calib.npz", x=x)
    batches = read(opened(tmp_path / "calib.npz", size=4))
    assert len(batches) == 6
    np.testing.assert_array_equal(batches[2].feed["x"], x[2])


def test_exact_feeds_of_several_samples_count_them_and_take_rows_of_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", x=floats(6, 2, 3, 4, 5), labels=np.arange(12).reshape(6, 2))
    data = opened(tmp_path / "calib.npz")
    assert data.samples == 12
    assert read(data)[5].labels.tolist() == [10, 11]


def test_npz_mixes_samples_exact_feeds_per_sample_scalars_and_shared_scalars(tmp_path: Path) -> None:
    signature = (
        TensorSignature("audio", "float32", ("batch", 8)),
        TensorSignature("state", "float32", (2, "batch", 4)),
        TensorSignature("rate", "int64", ()),
        TensorSignature("gain", "float32", ()),
    )
    audio, state = floats(5, 8), floats(5, 2, 1, 4)
    np.savez(tmp_path / "a.npz", audio=audio, state=state, rate=np.arange(5), gain=np.float32(3))
    data = opened(tmp_path / "a.npz", signature, size=4)
    batches = read(data)
    assert data.samples == 5
    assert batches[3].feed["audio"].shape == (1, 8)
    assert batches[3].feed["state"].shape == (2, 1, 4)
    assert batches[3].feed["rate"] == 3
    assert batches[3].feed["rate"].shape == ()
    assert batches[3].feed["gain"] == 3


def test_shared_scalar_survives_batching(tmp_path: Path) -> None:
    signature = (*IMAGE, TensorSignature("gain", "float32", ()))
    np.savez(tmp_path / "a.npz", x=floats(5, 3, 4, 5), gain=np.float32(3))
    batches = read(opened(tmp_path / "a.npz", signature, size=3))
    assert [batch.samples for batch in batches] == [3, 2]
    assert batches[0].feed["gain"].shape == ()


def test_fixed_batch_overrides_the_size_and_leaves_out_the_rest(tmp_path: Path) -> None:
    signature = (TensorSignature("x", "float32", (4, 3)),)
    np.savez(tmp_path / "a.npz", x=floats(11, 3))
    data = opened(tmp_path / "a.npz", signature, size=2)
    assert [batch.feed["x"].shape for batch in read(data)] == [(4, 3), (4, 3)]
    assert data.samples == 8


def test_fixed_batch_splits_and_limits_into_full_batches(tmp_path: Path) -> None:
    signature = (TensorSignature("x", "float32", (4, 3)),)
    np.savez(tmp_path / "a.npz", x=floats(23, 3))
    data = opened(tmp_path / "a.npz", signature)
    fit, held = data.split(0.25, 0)
    assert (fit.samples, held.samples) == (16, 4)
    assert data.limit(10).samples == 8
    assert sum(batch.samples for batch in data.limit(10).batches()) == 8


def test_fixed_batch_larger_than_the_data_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=floats(3, 3))
    with pytest.raises(DataError, match="holds 3 samples, but the model takes exactly 4 at a time"):
        opened(tmp_path / "a.npz", (TensorSignature("x", "float32", (4, 3)),))


def test_fortran_order_and_foreign_byte_order_are_read(tmp_path: Path) -> None:
    x = floats(7, 3)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(x))
    np.savez(tmp_path / "b.npz", x=x.astype(">f4"))
    signature = (TensorSignature("x", "float32", ("n", 3)),)
    for name in ("a.npz", "b.npz"):
        batches = read(opened(tmp_path / name, signature))
        np.testing.assert_array_equal(np.concatenate([batch.feed["x"] for batch in batches]), x)
        assert all(batch.feed["x"].dtype.isnative for batch in batches)


def test_model_input_called_labels_is_an_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=floats(4, 3))
    data = opened(tmp_path / "a.npz", (TensorSignature("labels", "float32", ("n", 3)),))
    assert not data.has_labels
    assert data.samples == 4


def test_reference_outputs_in_the_data_are_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=floats(2, 3, 4, 5), logits=floats(2, 10))
    data = open_dataset(str(tmp_path / "a.npz"), IMAGE, DataOptions(), output_names=("logits",))
    assert list(read(data)[0].feed) == ["x"]


def test_npy_feeds_a_single_input(tmp_path: Path) -> None:
    x = floats(5, 3, 4, 5)
    np.save(tmp_path / "a.npy", x)
    data = opened(tmp_path / "a.npy", size=2)
    assert data.samples == 5
    np.testing.assert_array_equal(np.concatenate([batch.feed["x"] for batch in data.batches()]), x)
    with pytest.raises(DataError, match=r"one array, but the model has the inputs ids, mask.*\.npz"):
        opened(tmp_path / "a.npy", TEXT)


def test_folder_of_npz_gives_feeds_of_differing_shapes_in_name_order(tmp_path: Path) -> None:
    signature = (*TEXT, TensorSignature("rate", "int64", ()))
    for index, (batch, length) in enumerate([(1, 5), (2, 3), (1, 9)]):
        ids = np.full((batch, length), index)
        np.savez(tmp_path / f"{index:02d}.npz", ids=ids, mask=ids, rate=16000, labels=np.zeros(batch, np.int64))
    data = opened(tmp_path, signature, size=8)
    batches = read(data)
    assert [batch.feed["ids"].shape for batch in batches] == [(1, 5), (2, 3), (1, 9)]
    assert [batch.samples for batch in batches] == [1, 2, 1]
    assert data.samples == 4
    assert data.has_labels
    assert batches[0].feed["rate"].shape == ()


def test_folder_with_labels_in_some_files_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", x=floats(1, 3, 4, 5), labels=1)
    np.savez(tmp_path / "1.npz", x=floats(1, 3, 4, 5))
    data = opened(tmp_path)
    with pytest.raises(DataError, match=r"1\.npz has no labels"):
        read(data)


def write_set(folder: Path, tensors: dict[int, onnx.TensorProto]) -> None:
    folder.mkdir(parents=True)
    for index, tensor in tensors.items():
        (folder / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
    (folder / "output_0.pb").write_bytes(b"anything")


def test_test_data_sets_are_matched_by_name_and_ordered_by_number(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        ids, mask = np.full((1, 3), number), np.ones((1, 3), np.int64)
        write_set(
            tmp_path / f"test_data_set_{number}",
            {0: onnx.numpy_helper.from_array(mask, "mask"), 1: onnx.numpy_helper.from_array(ids, "ids")},
        )
    data = opened(tmp_path, TEXT)
    assert [int(batch.feed["ids"][0, 0]) for batch in data.batches()] == [0, 2, 10]
    assert data.samples == 3
    assert read(opened(tmp_path / "test_data_set_2", TEXT))[0].feed["ids"][0, 0] == 2


def test_test_data_with_foreign_names_is_matched_by_position(tmp_path: Path) -> None:
    ids, mask = np.full((1, 3), 7), np.ones((1, 3), np.int64)
    write_set(
        tmp_path / "test_data_set_0",
        {0: onnx.numpy_helper.from_array(ids, "a"), 1: onnx.numpy_helper.from_array(mask, "b")},
    )
    feed = read(opened(tmp_path, TEXT))[0].feed
    assert feed["ids"].tolist() == [[7, 7, 7]]
    assert feed["mask"].tolist() == [[1, 1, 1]]


def test_test_data_that_is_damaged_missing_or_elsewhere_is_an_error(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(np.ones((1, 3), np.int64), "ids")
    write_set(tmp_path / "few" / "test_data_set_0", {0: tensor})
    with pytest.raises(DataError, match="test_data_set_0 has 1 input tensors, but the model has 2 inputs"):
        opened(tmp_path / "few", TEXT)
    external = onnx.TensorProto(name="x", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    external.external_data.add(key="location", value="/etc/passwd")
    for name, content in (("random", b"\xff\xfe not a proto"), ("empty", b""), ("far", external.SerializeToString())):
        folder = tmp_path / name / "test_data_set_0"
        folder.mkdir(parents=True)
        (folder / "input_0.pb").write_bytes(content)
        with pytest.raises(DataError, match=r"test_data_set_0/input_0\.pb is not a readable ONNX tensor"):
            opened(tmp_path / name)


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_image_folder_labels_by_sorted_sub_folder(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "a.png", (255, 0, 0))
    picture(tmp_path / "cat" / "b.png", (0, 255, 0))
    picture(tmp_path / "cat" / "a.png", (0, 0, 255))
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    data = opened(tmp_path, size=2)
    batches = read(data)
    assert data.samples == 3
    assert data.has_labels
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0, 0, 1]
    assert batches[0].feed["x"].shape == (2, 3, 4, 5)
    assert batches[0].feed["x"].dtype == np.float32
    np.testing.assert_array_equal(batches[1].feed["x"][0, :, 0, 0], [1, 0, 0])  # red, scaled to 0..1


def test_image_options_normalise_reorder_and_lay_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (200, 100, 50))
    options = ImageOptions((6, 6), 1.0, (10.0, 20.0, 30.0), (2.0, 4.0, 5.0), colour=Colour.BGR)
    signature = (TensorSignature("x", "float32", (1, "h", "w", 3)),)
    data = open_dataset(str(tmp_path), signature, DataOptions(image=options))
    assert not data.has_labels
    x = read(data)[0].feed["x"]
    assert x.shape == (1, 6, 6, 3)
    np.testing.assert_allclose(x[0, 3, 3], [(50 - 10) / 2, (100 - 20) / 4, (200 - 30) / 5])


def test_images_are_cropped_or_stretched(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255  # the middle third is white
    Image.fromarray(pixels).save(tmp_path / "a.png")
    signature = (TensorSignature("x", "uint8", (1, 3, 10, 10)),)
    whiteness = {}
    for resize in Resize:
        options = DataOptions(image=ImageOptions(resize=resize))
        whiteness[resize] = float(read(open_dataset(str(tmp_path), signature, options))[0].feed["x"].mean())
    assert whiteness[Resize.CROP] == 255
    assert 60 < whiteness[Resize.STRETCH] < 110


def test_gray_models_get_gray_images_and_free_sizes_are_224(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (90, 90, 90))
    x = read(opened(tmp_path, (TensorSignature("x", "float32", ("n", 1, "h", "w")),)))[0].feed["x"]
    assert x.shape == (1, 1, 224, 224)
    np.testing.assert_allclose(x, 90 / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("n", 10), ImageOptions(), r"shape \(n, 10\) is not an image"),
        (("n", "c", "h", "w"), ImageOptions(), "nchw or nhwc"),
        (("n", 3, 4, 5), ImageOptions(size=(5, 5)), "takes images of 4 x 5, not 5 x 5"),
        (("n", 3, 4, 5), ImageOptions(colour=Colour.GRAY), "has 3 channels, but gray images have 1"),
        (("n", 3, 4, 5), ImageOptions(mean=(1.0, 2.0)), "do not fit 3 channels"),
        (("n", 3, 4, 5), ImageOptions(layout=Layout.NHWC), "has 5 channels"),
    ],
)
def test_images_that_do_not_fit_are_errors(
    tmp_path: Path, shape: tuple[int | str, ...], options: ImageOptions, message: str
) -> None:
    picture(tmp_path / "a.png", (1, 2, 3))
    with pytest.raises(DataError, match=message):
        open_dataset(str(tmp_path), (TensorSignature("x", "float32", shape),), DataOptions(image=options))


def test_broken_images_and_mixed_folders_are_errors(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"\x89PNG truncated")
    with pytest.raises(DataError, match=r"cat/a\.png cannot be decoded"):
        opened(tmp_path)
    picture(tmp_path / "b.png", (1, 2, 3))
    with pytest.raises(DataError, match="images beside sub-folders"):
        opened(tmp_path)


def test_missing_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png", (1, 2, 3))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'qcompress\[images\]'"):
        opened(tmp_path)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Write a module into the working directory; a name of its own per test, because Python remembers imports."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> str:
        name = "loader_" + re.sub(r"\W", "_", request.node.name)
        (tmp_path / f"{name}.py").write_text("import numpy as np\n" + code)
        return name

    return write


def test_function_streams_feeds_and_is_called_for_every_pass(module: Callable[[str], str]) -> None:
    name = module(
        "def feeds():\n    for i in range(5):\n        yield {'x': np.full((1 + i % 2, 3, 4, 5), i, np.float32)}\n"
    )
    data = opened(f"{name}:feeds")
    assert data.samples is None
    assert [batch.samples for batch in data.batches()] == [1, 2, 1, 2, 1]
    assert len(read(data)) == 5
    assert str(Path.cwd()) not in sys.path


def test_function_gives_pairs_and_lists(module: Callable[[str], str]) -> None:
    name = module(
        "def feeds():\n    return [({'ids': [[1, 2]], 'mask': [[1, 1]]}, 1), ({'ids': [[3]], 'mask': [[1]]}, [0])]\n"
    )
    data = opened(f"{name}:feeds", TEXT)
    assert data.has_labels
    assert [batch.labels.tolist() for batch in data.batches()] == [[1], [0]]
    assert read(data)[0].feed["ids"].dtype == np.int64


def test_lists_take_the_type_of_the_input_but_not_another_kind(module: Callable[[str], str]) -> None:
    name = module(
        "def ints(): return [{'x': [[1, 2]]}]\ndef floats(): return [{'x': [[1.5, 2]]}]\ndef big(): return [{'x': [[300]]}]\n"
    )
    for kind, function in (("int8", "ints"), ("float16", "floats")):
        data = opened(f"{name}:{function}", (TensorSignature("x", kind, ("n", "m")),))
        assert read(data)[0].feed["x"].dtype == kind
    with pytest.raises(DataError, match="is float64, but the model wants int32"):
        opened(f"{name}:floats", (TensorSignature("x", "int32", ("n", "m")),))
    with pytest.raises(DataError, match=f"input 'x' of feed 0 of {name}:big is not an array"):
        opened(f"{name}:big", (TensorSignature("x", "int8", ("n", "m")),))


def test_calibration_data_reader_works_as_it_is(module: Callable[[str], str]) -> None:
    name = module(
        "from onnxruntime.quantization import CalibrationDataReader\n"
        "class Reader(CalibrationDataReader):\n"
        "    def __init__(self): self.rest = [np.ones((1, 3, 4, 5), np.float32)] * 3\n"
        "    def get_next(self): return {'x': self.rest.pop()} if self.rest else None\n"
    )
    data = opened(f"{name}:Reader")
    assert len(read(data)) == len(read(data)) == 3


def test_split_of_a_function_reads_no_further_than_its_last_feed(module: Callable[[str], str]) -> None:
    name = module("def feeds():\n    for i in range(8):\n        yield {'x': np.full((1, 3, 4, 5), i, np.float32)}\n")
    data = opened(f"{name}:feeds")
    fit, held = data.split(0.25, 3)
    values = [[int(batch.feed["x"].max()) for batch in part.batches()] for part in (fit, held)]
    assert (fit.samples, held.samples) == (6, 2)
    assert sorted(values[0] + values[1]) == list(range(8))


def test_limit_tames_an_endless_function(module: Callable[[str], str]) -> None:
    name = module("def feeds():\n    while True:\n        yield {'x': np.ones((2, 3, 4, 5), np.float32)}\n")
    data = opened(f"{name}:feeds").limit(7)
    assert data.samples == 6
    assert len(read(data)) == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def feeds(): raise KeyError('gone')", "feeds failed with KeyError: 'gone'"),
        ("def feeds():\n    yield {'x': 1 / 0}", "feeds failed with ZeroDivisionError"),
        ("def feeds(): raise SystemExit(3)", "feeds failed with SystemExit"),
        ("def feeds(): return None", "feeds gave nothing, not feeds"),
        ("def feeds(): return {'x': np.ones(3)}", "feeds gave a dict, not feeds"),
        ("def feeds(): return [np.ones(3)]", "feed 0 of .* is a ndarray"),
        ("def feeds(): return []", "feeds holds no samples"),
        ("def feeds(): return [{'x': [[1, 2], [3]]}]", "input 'x' of feed 0 of .* is not an array"),
        ("feeds = 3", "feeds is not a function"),
        ("def feed(): pass", "has no 'feeds' .did you mean feed?"),
        ("import nothing_of_this_name", "importing .* failed with ModuleNotFoundError: No module named 'nothing_of"),
        ("raise ValueError('no')", "importing .* failed with ValueError: no"),
        ("def feeds(", "importing .* failed with SyntaxError"),
        (
            "def feeds(): return [({'x': np.ones((2, 3, 4, 5), np.float32)}, [1, 2, 3])]",
            "labels of shape .3,. for 2 samples",
        ),
    ],
)
def test_failures_of_the_users_function_are_data_errors(module: Callable[[str], str], code: str, message: str) -> None:
    name = module(code)
    with pytest.raises(DataError, match=message):
        opened(f"{name}:feeds")


def test_missing_module_is_named() -> None:
    with pytest.raises(DataError, match=r"there is no Python module 'not_there\.at_all'"):
        opened("not_there.at_all:feeds")


def test_function_that_gives_its_feeds_only_once_is_an_error(module: Callable[[str], str]) -> None:
    name = module("once = iter([{'x': np.ones((1, 3, 4, 5), np.float32)}] * 2)\ndef feeds(): return once\n")
    data = opened(f"{name}:feeds")
    read(data)
    with pytest.raises(DataError, match=r"gave no samples .*each time it is called"):
        read(data)


def test_random_data_is_labelled_seeded_and_sensible() -> None:
    signature = (
        TensorSignature("x", "float32", ("batch", 3, "h", "w")),
        TensorSignature("ids", "int64", ("batch", "sequence")),
        TensorSignature("attention_mask", "int64", ("batch", "sequence")),
        TensorSignature("pixels", "uint8", ("batch", 64)),
        TensorSignature("flag", "bool", (None,)),
        TensorSignature("rate", "int32", ()),
        TensorSignature("any", "float16", None),
    )
    data = open_dataset("random", signature, DataOptions(seed=5))
    first = read(data)[0].feed
    assert data.random
    assert data.samples == 16
    assert first["x"].shape == (1, 3, 32, 32)
    assert set(np.unique(first["ids"])) == {0, 1}
    assert first["attention_mask"].min() == 1
    assert first["pixels"].max() > 200
    assert first["flag"].all()
    assert first["rate"] == 1
    again = read(open_dataset("random", signature, DataOptions(seed=5)))[0].feed
    other = read(open_dataset("random", signature, DataOptions(seed=6)))[0].feed
    np.testing.assert_array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], other["x"])
    assert not np.array_equal(first["x"], read(data)[1].feed["x"])


def test_random_data_for_strings_is_refused() -> None:
    with pytest.raises(DataError, match="random values cannot be made for input 'text' of type str"):
        opened("random", (TensorSignature("text", "str", ("n",)),))


def test_every_source_file_is_in_the_table() -> None:
    import qcompress.data.sources as folder

    files = {path.stem for path in Path(folder.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(SOURCES) == files


def test_extra_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=floats(2, 3, 4, 5))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("readme.txt", "hello, this is no array")
    with pytest.raises(DataError, match=r"a\.npz: readme\.txt is not a numpy array"):
        opened(tmp_path / "a.npz")
