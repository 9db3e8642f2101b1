from dataclasses import replace

import numpy as np
import onnx
import pytest
from measured_models import Batches
from onnx import numpy_helper

from qcompress.errors import DataError, ModelError
from qcompress.measure import AccuracySettings, measure_accuracy
from qcompress.runtime import open_session


def best(model, images):
    session = open_session(model)
    return tuple(session.run({"x": feed})["logits"].argmax(1) for feed in images)


def with_weight(model, name, change):
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    path = model.with_name(f"changed_{name}.onnx")
    onnx.save(proto, path)
    return path


def test_a_model_agrees_with_itself(convolutional, images):
    found = measure_accuracy(convolutional, convolutional, Batches(images))
    (logits,) = found.agreement
    assert found.samples == 20
    assert (logits.cosine.value, logits.top1.value, logits.sqnr_db) == (1.0, 1.0, None)
    assert found.drop.value == 0.0
    assert found.drop_of == "top-1 agreement of logits with the float model"
    assert found.float_task is None


def test_an_int8_model_agrees_mostly(convolutional, quantized, images):
    found = measure_accuracy(convolutional, quantized, Batches(images))
    (logits,) = found.agreement
    assert 0.9 < logits.cosine.value < 1.0
    assert 10.0 < logits.sqnr_db < 60.0
    assert logits.cosine.low < logits.cosine.value < logits.cosine.high
    assert found.drop.value == pytest.approx(1 - logits.top1.value)


def test_labels_give_task_metrics_and_a_paired_drop(convolutional, quantized, images):
    labels = best(convolutional, images)
    found = measure_accuracy(convolutional, quantized, Batches(images, labels))
    wrong = np.mean(np.concatenate(best(quantized, images)) != np.concatenate(labels))
    assert found.float_task.accuracy.value == 1.0
    assert found.compressed_task.accuracy.value == pytest.approx(1 - wrong)
    assert found.drop.value == pytest.approx(wrong)
    assert found.drop.low <= found.drop.value <= found.drop.high
    assert found.scored_output == "logits"
    assert "labels" in found.drop_of


def test_nan_is_reported_loudly_and_is_never_right(convolutional, images):
    broken = with_weight(convolutional, "w3", lambda weight: weight * np.float32(np.nan))
    labels = tuple(np.zeros(len(feed), np.int64) for feed in images)  # the arg-max of NaN would be class 0
    found = measure_accuracy(convolutional, broken, Batches(images, labels))
    assert found.compressed_task.accuracy.value == 0.0
    assert found.agreement[0].lost_samples == 20
    assert found.agreement[0].top1.value == 0.0
    assert any("OUTPUT LOST" in note and "20 of 20" in note for note in found.notes)


def test_labels_that_fit_no_output_are_an_error(convolutional, images):
    labels = tuple(np.full(len(feed), 10) for feed in images)
    with pytest.raises(DataError, match="label 10 is not a class"):
        measure_accuracy(convolutional, convolutional, Batches(images, labels))


def test_labels_that_are_no_classes_are_noted(convolutional, images):
    labels = tuple(np.full(len(feed), 0.5) for feed in images)
    found = measure_accuracy(convolutional, convolutional, Batches(images, labels))
    assert found.float_task is None
    assert any("not class indices" in note for note in found.notes)


def test_the_second_output_is_scored_where_the_first_does_not_fit(write):
    graph = """
    net (float[n, 3] x) => (float[n, 3, 1, 2] features, float[n, 3] scores) {
        u = Unsqueeze (x, axes)
        features = Concat <axis = 3> (u, u)
        scores = Identity (x)
    }
    """
    model = write("two.onnx", graph, {"axes": np.array([2, 3])})
    feed = np.eye(3, dtype=np.float32)
    found = measure_accuracy(model, model, Batches((feed,), (np.arange(3),)))
    assert found.scored_output == "scores"
    assert found.float_task.accuracy.value == 1.0


def test_a_binary_model_is_counted(write):
    model = write("binary.onnx", "net (float[n, 1] x) => (float[n, 1] p) { p = Sigmoid (x) }")
    shifted = write(
        "shifted.onnx",
        "net (float[n, 1] x) => (float[n, 1] p) { z = Add (x, s) \n p = Sigmoid (z) }",
        {"s": np.float32([[-1.0]])},
    )
    feed = np.array([[-2.0], [-0.5], [0.5], [2.0]], np.float32)
    found = measure_accuracy(model, shifted, Batches((feed,), (np.array([0, 0, 1, 1]),)))
    counts = found.compressed_task.counts
    assert (counts.true_positive, counts.true_negative, counts.false_positive, counts.false_negative) == (1, 2, 0, 1)
    assert found.drop.value == 0.25


def test_the_float_model_decides_where_class_1_begins(write):
    model = write("logit.onnx", "net (float[n, 1] x) => (float[n, 1] z) { z = Identity (x) }")
    clipped = write("clipped.onnx", "net (float[n, 1] x) => (float[n, 1] z) { z = Relu (x) }")  # looks like probabilities
    feed = np.array([[-2.0], [-0.5], [0.25], [0.75]], np.float32)
    found = measure_accuracy(model, clipped, Batches((feed,), (np.array([0, 0, 1, 1]),)))
    assert found.compressed_task.accuracy.value == 1.0


def test_outputs_without_classes_lose_cosine(write):
    model = write("embed.onnx", "net (float[n, 3] x) => (float[n, 3] embedding) { embedding = Identity (x) }")
    other = write(
        "turned.onnx",
        "net (float[n, 3] x) => (float[n, 3] embedding) { embedding = MatMul (x, w) }",
        {"w": np.eye(3, dtype=np.float32)[::-1].copy()},
    )
    found = measure_accuracy(model, other, Batches((np.float32([[1, 0, 0], [0, 1, 0]]),)))
    assert found.drop.value == pytest.approx(0.5)
    assert found.drop_of.startswith("cosine of embedding")


def test_outputs_that_are_not_judged_lose_nothing(write):
    text = "net (float[n, 3] x) => (float[n, 3] inner, float[n, 3] embedding) {{ inner = {} embedding = Identity (x) }}"
    model = write("inner.onnx", text.format("Identity (x)"))
    other = write("turned.onnx", text.format("MatMul (x, w)"), {"w": np.eye(3, dtype=np.float32)[::-1].copy()})
    feeds = Batches((np.float32([[1, 0, 0], [0, 1, 0]]),))
    found = measure_accuracy(model, other, feeds, settings=AccuracySettings(judged=("embedding",)))
    assert (found.drop.value, found.drop_of) == (0.0, "cosine of embedding with the float model")
    assert measure_accuracy(model, other, feeds).drop.value == pytest.approx(0.5)


def test_a_metric_sees_all_samples_and_decides_the_drop(convolutional, quantized, images):
    labels = best(convolutional, images)

    def hits(outputs, truth):
        assert outputs["logits"].shape == (20, 10)
        return float((outputs["logits"].argmax(1) == truth).sum())

    found = measure_accuracy(convolutional, quantized, Batches(images, labels), hits)
    assert found.metric.name == "hits"
    assert found.metric.float_value == 20.0
    assert found.drop.value == 20.0 - found.metric.compressed_value
    assert found.drop_of == "hits"
    named = measure_accuracy(
        convolutional, quantized, Batches(images), lambda outputs, truth: 1.0, AccuracySettings(metric_name="m:f")
    )
    assert named.metric.name == "m:f"


def test_outputs_of_different_shapes_reach_a_metric_sample_by_sample(write):
    model = write("same.onnx", "net (float[n, t] x) => (float[n, t] y) { y = Identity (x) }")
    feeds = (np.zeros((2, 3), np.float32), np.ones((1, 5), np.float32))
    lengths = []

    def metric(outputs, labels):
        lengths.append([len(sample) for sample in outputs["y"]])
        assert labels is None
        return 0.0

    measure_accuracy(model, model, Batches(feeds), metric)
    assert lengths == [[3, 3, 5], [3, 3, 5]]


def test_a_metric_that_is_no_number_on_the_compressed_model_is_a_finding(convolutional, images):
    broken = with_weight(convolutional, "w3", lambda weight: weight * np.float32(np.nan))
    found = measure_accuracy(convolutional, broken, Batches(images), lambda outputs, _: float(outputs["logits"].sum()))
    assert found.metric.float_value is not None
    assert found.metric.compressed_value is None
    assert found.drop is None


def test_models_without_a_common_output_cannot_be_compared(convolutional, write, images):
    other = write("other.onnx", "net (float[n, 8, 16, 16] x) => (float[n, 8, 16, 16] y) { y = Identity (x) }")
    with pytest.raises(ModelError, match="no output of the same name"):
        measure_accuracy(convolutional, other, Batches(images))


def test_outputs_in_one_model_only_are_noted(write):
    one = write("one.onnx", "net (float[n, 3] x) => (float[n, 3] y) { y = Identity (x) }")
    two = write("two.onnx", "net (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) { y = Identity (x) \n z = Neg (x) }")
    found = measure_accuracy(one, two, Batches((np.ones((2, 3), np.float32),)))
    assert [output.name for output in found.agreement] == ["y"]
    assert any("z" in note for note in found.notes)


def test_no_samples_are_an_error(convolutional):
    with pytest.raises(DataError, match="no samples"):
        measure_accuracy(convolutional, convolutional, replace(Batches(()), samples=0))
