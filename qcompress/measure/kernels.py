"""Which layers of the compressed model onnxruntime really runs in integers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from qcompress.errors import ModelError
from qcompress.graph import NodeFacts, list_nodes
from qcompress.results import KernelReport
from qcompress.runtime import Optimization, SessionSettings, open_session, version

INTEGER_KERNELS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
    }
)
"""Operators with integer weights or arithmetic whose names do not start with QLinear."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN", "Attention"})
"""Operators that always have weights, under their ONNX names; the runtime's fused variants contain these names."""

LOADED_UNASKED = 1 << 28
"""Bytes of float weights up to which a model is loaded to see its kernels: the runtime unfolds codes, and takes several times
the memory that compressing takes (a language model of 540 MB: 1,650 MB instead of 250)."""

PRODUCTS = frozenset({"MatMul", "FusedMatMul", "TransposeMatMul"})
"""Matrix products, which have a weight only if an operand is constant."""

_FUSED = {"FusedConv": "Conv", "NhwcFusedConv": "Conv", "FusedGemm": "Gemm"}

_MARK = re.compile(r"^InsertedPrecisionFreeCast_|(_nchwc|_nhwc|_quant|_token_\d+|/MatMulScaleFusion/|/MatMulAddFusion)$")
"""What the runtime's precision, layout and fusion passes add to names."""


def measure_kernels(compressed: Path, settings: SessionSettings | None = None, unasked_bytes: int = 0) -> KernelReport:
    """Load the model as it will be run and read the graph the runtime made of it.

    Args:
        compressed: the model file.
        settings: its threads count.
        unasked_bytes: bytes of float weights when nobody else has the model run; above LOADED_UNASKED it is not loaded.

    Raises:
        ModelError: the runtime cannot load the model at all.
    """
    if unasked_bytes > LOADED_UNASKED:
        return KernelReport({}, {}, 0, _runtime(), "a model of this size is only loaded when there is data to run it on")
    threads = settings.threads if settings else 0
    with TemporaryDirectory(prefix="qcompress-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        try:
            open_session(compressed, SessionSettings(threads, Optimization.ALL, optimized))
            nodes = list_nodes(optimized)
        except (ModelError, OSError) as error:
            open_session(compressed, SessionSettings(threads))  # fails where the model, not the saving, is at fault
            return KernelReport({}, {}, 0, _runtime(), f"the optimized graph could not be saved: {error}")
    return summarize(nodes, list_nodes(compressed))


def summarize(optimized: Sequence[NodeFacts], original: Sequence[NodeFacts]) -> KernelReport:
    """Count integer kernels, conversions and the weighted operators still in float, under their original names."""
    integer: dict[str, int] = {}
    float_layers: dict[str, str] = {}
    conversions = 0
    names = _Names(original)
    constants = _dequantized_constants(optimized)
    for node in optimized:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
            conversions += 1
        elif is_integer_kernel(node.op_type):
            integer[node.op_type] = integer.get(node.op_type, 0) + 1
        elif _has_weight(node, constants):
            name = names.of(node)
            while name in float_layers:  # two kernels of one layer, or one name in two subgraphs
                name += "'"
            float_layers[name] = _FUSED.get(node.op_type, node.op_type)
    return KernelReport(dict(sorted(integer.items())), float_layers, conversions, _runtime())


def is_integer_kernel(op_type: str) -> bool:
    """Whether an operator of the optimized graph computes on integers or on integer weights."""
    return op_type.startswith("QLinear") or op_type in INTEGER_KERNELS


def _has_weight(node: NodeFacts, constants: frozenset[str]) -> bool:
    kind = _FUSED.get(node.op_type, node.op_type)
    if kind in WEIGHTED:
        return True
    return kind in PRODUCTS and (bool(node.weight_dtypes) or any(name in constants for name in node.inputs))


def _dequantized_constants(nodes: Sequence[NodeFacts]) -> frozenset[str]:
    """Tensors that the optimized graph dequantizes from a stored weight on every run."""
    return frozenset(
        node.outputs[0]
        for node in nodes
        if node.op_type == "DequantizeLinear" and len(node.weight_dtypes) == len([name for name in node.inputs if name])
    )


class _Names:
    """Finds a layer's own name from what the runtime called it."""

    def __init__(self, original: Sequence[NodeFacts]) -> None:
        self._nodes: Mapping[str, NodeFacts] = {node.name: node for node in original if node.name}
        self._producers: Mapping[str, NodeFacts] = {output: node for node in original for output in node.outputs if output}

    def of(self, node: NodeFacts) -> str:
        """The name of the layer a node of the optimized graph came from, as far as it can be known.

        1. the name, as it is or without the marks of the runtime's passes, is a layer's name;
        2. it is the name of a tensor (layout passes name nodes after what they compute, which may be the activation that
           was fused), or the node's output has kept its name: the weighted layer that computes that tensor;
        3. otherwise what the runtime says.
        """
        bare = _MARK.sub("", node.name)
        for name in (node.name, bare):
            if name in self._nodes:
                return name
        for tensor in (bare, *node.outputs):
            found = self._weighted_producer(tensor)
            if found is not None:
                return found.name or found.outputs[0]
        return node.name or (node.outputs[0] if node.outputs else node.op_type)

    def _weighted_producer(self, tensor: str) -> NodeFacts | None:
        """The nearest weighted operator upstream of ``tensor`` along first inputs."""
        for _ in range(8):  # a fused chain is short: convolution, batch normalization, activation
            node = self._producers.get(tensor)
            if node is None or node.op_type in WEIGHTED or node.op_type in PRODUCTS:
                return node
            if not node.inputs:
                return None
            tensor = node.inputs[0]
        return None


def _runtime() -> str:
    return f"onnxruntime {version()}"
