"""Batches in: open any source of data as one re-iterable stream of checked feeds, and score predictions on labels."""

from qcompress.data.batch import Batch
from qcompress.data.dataset import Dataset
from qcompress.data.metrics import (
    Metric,
    Scores,
    accuracy_drop,
    binary_threshold,
    classification_scores,
    decide,
    has_classes,
    join_scores,
    load_metric,
    task_metrics,
    wilson_interval,
)
from qcompress.data.opening import data_files, open_dataset
from qcompress.data.options import Colour, DataOptions, ImageOptions, Layout, Limits, Resize
from qcompress.data.parts import Parts, cut
from qcompress.data.sources import SOURCES

__all__ = [
    "SOURCES",
    "Batch",
    "Colour",
    "DataOptions",
    "Dataset",
    "ImageOptions",
    "Layout",
    "Limits",
    "Metric",
    "Parts",
    "Resize",
    "Scores",
    "accuracy_drop",
    "binary_threshold",
    "classification_scores",
    "cut",
    "data_files",
    "decide",
    "has_classes",
    "join_scores",
    "load_metric",
    "open_dataset",
    "task_metrics",
    "wilson_interval",
]
