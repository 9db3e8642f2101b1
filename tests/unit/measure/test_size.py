import numpy as np
import onnx
import pytest

from qcompress.measure import measure_size


def test_files_and_weights_are_counted(convolutional, quantized):
    found = measure_size(convolutional, quantized)
    assert found.float_bytes == convolutional.stat().st_size
    assert found.compressed_bytes == quantized.stat().st_size
    assert found.float_weights["float32"] == 4 * (16 * 8 * 9 + 16 + 16 * 16 * 9 + 160 + 10)
    assert found.compressed_weights["int8"] >= 16 * 8 * 9 + 16 * 16 * 9 + 160
    assert found.ratio == pytest.approx(found.compressed_bytes / found.float_bytes)


def test_external_data_counts(convolutional, tmp_path):
    model = onnx.load(convolutional)
    outside = tmp_path / "outside.onnx"
    onnx.save(model, outside, save_as_external_data=True, location="outside.bin", size_threshold=64)
    found = measure_size(convolutional, outside)
    assert found.compressed_bytes == outside.stat().st_size + (tmp_path / "outside.bin").stat().st_size
    assert found.compressed_weights == found.float_weights


def test_four_bit_weights_count_packed(write):
    text = "net (float[2] x) => (float[2] y) <int8[1] unused = {1}> { y = Identity (x) }"
    path = write("packed.onnx", text)
    model = onnx.load(path)
    model.graph.initializer.append(onnx.helper.make_tensor("four", onnx.TensorProto.INT4, [6], np.arange(6).tolist()))
    onnx.save(model, path)
    assert measure_size(path, path).float_weights == {"int4": 3, "int8": 1}
