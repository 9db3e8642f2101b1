"""Gathered form: rows of codes are looked up first, and only those are unpacked and decoded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qcompress.decisions import Quantize
from qcompress.graph import Graph, Node, Value
from qcompress.graph.edit import FLOAT, INT32, take_over
from qcompress.operators import Layer
from qcompress.quantize import short_scales
from qcompress.rewrite.chain import Chain
from qcompress.rewrite.context import Context, encode
from qcompress.rewrite.forms.parts import broadcastable, floats
from qcompress.rewrite.storage import Stored, behind, plain, row_numbers, store_all
from qcompress.types import Array, CodebookTensor, EncodedTensor, NarrowTensor, PerTensor, QuantizedTensor, spread


def write_gathered(context: Context, layer: Layer, decision: Quantize) -> None:
    """Gather codes and scales of the rows, then multiply; the table itself is never decoded."""
    table = Table(context, layer, encode(context, layer, decision))
    for use in layer.uses:
        gather_rows(table, use.node)


@dataclass(slots=True)
class Table:
    """A weight whose rows are looked up, perhaps at several places: each part of it is stored once."""

    context: Context
    layer: Layer
    encoded: EncodedTensor
    parts: dict[str, Value] = field(default_factory=dict)
    codes: Stored | None = None

    def __post_init__(self) -> None:
        if isinstance(self.encoded, QuantizedTensor):
            self.encoded = plain(self.encoded)

    @property
    def chain(self) -> Chain:
        """A chain in the graph that the table lives in: bodies read constants of the graph around them."""
        return Chain(self.context, self.layer.graph)

    def part(self, name: str, array: Array) -> Value:
        """An initializer, the same at every call."""
        if name not in self.parts:
            self.parts[name] = self.chain.constant(f"{self.layer.name}/{name}", array)
        return self.parts[name]

    def stored(self, encoded: QuantizedTensor | CodebookTensor) -> Stored:
        """All codes, zeros too: rows are looked up in them. The same at every call."""
        if self.codes is None:
            self.codes = store_all(self.chain, self.layer.name, encoded, encoded.codes, by_rows=True)
        return self.codes

    def scale(self, encoded: QuantizedTensor) -> Value:
        """The scales, shaped to broadcast against the codes, as float16 where that is exact."""
        array = broadcastable(encoded).scale
        short = short_scales(array)  # a power of two would be one more kernel at run time
        return self.part("s", array if short is None or short[1] else short[0])

    def zeros(self, encoded: QuantizedTensor) -> Value:
        """The zero points, shaped to broadcast against the codes."""
        return self.part("z", broadcastable(encoded).zero_point)


def gather_rows(table: Table, node: Node) -> None:
    """Replace a Gather of a float table by one of codes."""
    indices = node.inputs[1]
    if not isinstance(node.graph, Graph) or indices is None:
        raise TypeError("a look-up outside every graph")
    chain = Chain(table.context, node.graph)
    encoded, name = table.encoded, node.name or table.layer.name
    if isinstance(encoded, QuantizedTensor):
        rows = _affine(chain, table, encoded, indices, name)
    elif isinstance(encoded, CodebookTensor):
        rows = _looked_up(chain, table, encoded, indices, name)
    else:
        rows = _widened(chain, table, encoded, indices, name)
    chain.place_before(node)
    take_over(node, rows)


def _affine(chain: Chain, table: Table, quantized: QuantizedTensor, indices: Value, name: str) -> Value:
    """(code - zero_point) * scale of the rows; blocks have an axis of their own until the end."""
    split = broadcastable(quantized).codes.shape
    stored = replace(table.stored(quantized), shape=split)
    counted, outer = row_numbers(chain, stored, indices, name, FLOAT)
    symmetric = quantized.scheme.symmetric and quantized.scheme.signed
    zeros = None if symmetric else _of_rows(chain, table.zeros(quantized), indices, f"{name}_zeros")
    decoded = floats(chain, quantized.scheme, counted, stored.lowest, zeros)
    factor = _of_rows(chain, table.scale(quantized), indices, f"{name}_scales")
    decoded = chain.node("Mul", [decoded, factor], f"{name}_rows")
    if split == quantized.codes.shape:
        return decoded
    if outer is None:
        outer = chain.node("Shape", [indices], f"{name}_indices")
    whole = behind(chain, outer, quantized.codes.shape[1:], f"{name}_whole")
    return chain.node("Reshape", [decoded, whole], f"{name}_shaped")


def _looked_up(chain: Chain, table: Table, encoded: CodebookTensor, indices: Value, name: str) -> Value:
    """levels[code] * scale of the rows."""
    one_scale = isinstance(encoded.scheme.granularity, PerTensor)
    codes, _ = row_numbers(chain, table.stored(encoded), indices, name, INT32)
    levels = table.part("levels", encoded.levels * encoded.scale if one_scale else encoded.levels)
    decoded = chain.node("Gather", [levels, codes], f"{name}_levels", {"axis": 0})
    if one_scale:
        return decoded
    scale = table.part("s", spread(encoded.scale, encoded.codes.shape, encoded.scheme.granularity))
    return chain.node("Mul", [decoded, _of_rows(chain, scale, indices, f"{name}_scales")], f"{name}_rows")


def _widened(chain: Chain, table: Table, encoded: NarrowTensor, indices: Value, name: str) -> Value:
    """The numbers of the rows, as float32."""
    rows = chain.node("Gather", [table.part("half", encoded.values), indices], f"{name}_halves", {"axis": 0})
    return chain.node("Cast", [rows], f"{name}_rows", {"to": FLOAT})


def _of_rows(chain: Chain, parameter: Value, indices: Value, name: str) -> Value:
    """A parameter of the rows as floats; one that all rows share is read as it is."""
    shape, is_float = parameter.shape, parameter.dtype is not None and parameter.dtype.name == "FLOAT"
    if shape is not None and len(shape) > 0 and shape[0] != 1:
        parameter = chain.node("Gather", [parameter, indices], name, {"axis": 0})
    return parameter if is_float else chain.node("Cast", [parameter], f"{name}_float", {"to": FLOAT})
