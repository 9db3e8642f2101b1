"""What a model holds and what could become of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcompress.graph import load_model, model_files
from qcompress.operators import find_layers
from qcompress.pipeline.opening import (
    prepared_from,
)
from qcompress.plan.choose import PREFERENCES, choose_forms
from qcompress.plan.coverage import as_decisions, coverage
from qcompress.recipe import Recipe, load_recipe
from qcompress.results import WeightRow
from qcompress.types import TensorSignature


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model holds and what could become of it."""

    path: str
    opset: int
    ir_version: int
    producer: str
    nodes: int
    file_bytes: int
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    operators: Mapping[str, int]
    weights: tuple[WeightRow, ...]
    compressible_bytes: int
    estimated_bytes: int


def inspect_model(source: Path | str, recipe: Recipe | str = "int8") -> Inspection:
    """What a model holds, what could be compressed, and why the rest could not; needs no data.

    Raises:
        QcompressError: the model or recipe cannot be used.
    """
    path = Path(source)
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    raw = load_model(path)
    operators = Counter(node.op_type for graph in raw.ir.graphs() for node in graph if node.op_type != "Constant")
    file_bytes = sum(file.stat().st_size for file in model_files(path))
    opset, ir_version = raw.opset, raw.ir.ir_version
    model = prepared_from(raw, recipe)
    layers = find_layers(model)
    chosen = choose_forms(layers, PREFERENCES[recipe.mode][0], recipe, {})
    rows = coverage(layers, as_decisions(layers, chosen, recipe))
    taken = [row for row in rows if row.form]
    before, after = sum(row.bytes_before for row in taken), sum(row.bytes_after for row in taken)
    return Inspection(
        path=str(path),
        opset=opset,
        ir_version=ir_version,
        producer=f"{raw.ir.producer_name or ''} {raw.ir.producer_version or ''}".strip(),
        nodes=sum(operators.values()),
        file_bytes=file_bytes,
        inputs=raw.inputs,
        outputs=raw.outputs,
        operators=dict(sorted(operators.items())),
        weights=rows,
        compressible_bytes=before,
        estimated_bytes=file_bytes - before + after,
    )
