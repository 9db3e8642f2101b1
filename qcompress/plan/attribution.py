"""Divide the kernel times of one variant among the nodes and tensors of the prepared model.

The runtime fuses, renames and inserts nodes. Kernels are taken in the order they run:
1. A kernel is known by a tensor of the prepared model that it writes, or by the name of a node or tensor in its own name. It
   covers that node and all nodes before it that no earlier kernel has covered; its time goes to the weighted ones among
   them (by the size of their weights), else to the node itself.
2. QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear and what only turns the memory layout go to the tensor they read.
3. Anything else is a step towards a kernel of the first kind, such as the decoding of gathered rows, and is charged with it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qcompress.plan.anatomy import Anatomy
from qcompress.plan.cost import Charges
from qcompress.results import KernelTime

_MARK = re.compile(r"^InsertedPrecisionFreeCast_|(_nchwc|_nhwc|_quant|_token_\d+|/MatMulScaleFusion/|/MatMulAddFusion)$")
"""What the runtime's precision, layout and fusion passes add to names."""

_LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"})
"""Operators that the runtime inserts to turn a tensor from one layout into another."""

_LEAST_SHARE = 0.02
"""A kernel keeps at least this share of the time in its profile when what writing the profile took is subtracted."""


def profiling_overhead(kernels: Sequence[KernelTime], total: float) -> float:
    """Milliseconds that writing the profile adds to every kernel: what they take together beyond ``total``, a run without it."""
    return max(sum(kernel.ms for kernel in kernels) - total, 0.0) / max(len(kernels), 1)


def without_overhead(kernels: Sequence[KernelTime], total: float, overhead: float) -> list[KernelTime]:
    """The kernels with ``overhead`` milliseconds less each and ``total`` in all; every one keeps a small part of its time."""
    times = np.array([kernel.ms for kernel in kernels])
    left = np.maximum(times - overhead, times * _LEAST_SHARE)
    left *= total / max(float(left.sum()), 1e-9)
    return [replace(kernel, ms=float(ms)) for kernel, ms in zip(kernels, left, strict=True)]


def attribute(kernels: Sequence[KernelTime], anatomy: Anatomy, quantized: Collection[str] = ()) -> Charges:
    """Charges that together are the milliseconds of all kernels.

    ``quantized``: tensors with a calibrated scale. The runtime may move a conversion along operators that only move numbers;
    it is charged to the tensor of these that it was meant for.
    """
    ledger = _Ledger(anatomy, frozenset(quantized))
    for kernel in kernels:
        ledger.enter(kernel)
    total = sum(kernel.ms for kernel in kernels)
    found = Charges(ledger.nodes, ledger.quantize, ledger.dequantize, ledger.dynamic, ledger.layout)
    return found.scaled(total / found.total) if found.total > 0.0 else found  # what led nowhere is charged to all


@dataclass(slots=True)
class _Ledger:
    """Charges so far."""

    anatomy: Anatomy
    quantized: frozenset[str]
    nodes: dict[str, float] = field(default_factory=dict)
    quantize: dict[str, float] = field(default_factory=dict)
    dequantize: dict[str, float] = field(default_factory=dict)
    dynamic: dict[str, float] = field(default_factory=dict)
    layout: dict[str, float] = field(default_factory=dict)
    covered: set[str] = field(default_factory=set)
    """Nodes whose time some kernel was."""
    meaning: dict[str, str] = field(default_factory=dict)
    """Tensor of the runtime's graph -> tensor of the prepared model with the same numbers."""
    carried: dict[str, float] = field(default_factory=dict)
    """Tensor of the runtime's graph -> milliseconds of the steps that led to it."""
    previous: str = ""
    """The tensor written by the kernel before, where tensors are not known."""

    def enter(self, kernel: KernelTime) -> None:
        """Charge one kernel."""
        source = next((name for item in kernel.inputs if (name := self._meant(item))), "")
        if not kernel.inputs:
            source = self.previous
        target = self._target(kernel)
        if kernel.kernel == "DynamicQuantizeLinear" and source:
            self._charge(self.dynamic, self._settled(source), kernel)
        elif kernel.kernel == "QuantizeLinear" and source:
            self._charge(self.quantize, self._nearest(source, forward=True), kernel)
        elif kernel.kernel == "DequantizeLinear" and source:
            self._charge(self.dequantize, self._nearest(source, forward=False), kernel)
        elif kernel.kernel in _LAYOUT and source and self._settled(target or source) == self._settled(source):
            self._charge(self.layout, self._settled(source), kernel)
        elif target:
            self._compute(kernel, target)
        else:
            for name in kernel.outputs[:1] or ("",):
                self.carried[name] = self.carried.get(name, 0.0) + self._with_carried(kernel)
            return
        for name in kernel.outputs:
            if name not in self.anatomy.producers:
                self.meaning[name] = target or source
        self.previous = target or source

    def _charge(self, table: dict[str, float], tensor: str, kernel: KernelTime) -> None:
        table[tensor] = table.get(tensor, 0.0) + self._with_carried(kernel)

    def _with_carried(self, kernel: KernelTime) -> float:
        return kernel.ms + sum(self.carried.pop(name, 0.0) for name in kernel.inputs or ("",))

    def _compute(self, kernel: KernelTime, target: str) -> None:
        """Charge a kernel that computes ``target`` to the nodes it covers."""
        last = self.anatomy.producers[target]
        covers = self._uncovered(last)
        self.covered.update(covers)
        weighted = {name: sum(self.anatomy.weights[name].values()) for name in covers if name in self.anatomy.weights}
        named = _bare(kernel.name)
        shares = weighted or {named if named in covers else last: 1}
        ms, whole = self._with_carried(kernel), sum(shares.values())
        for name, share in shares.items():
            self.nodes[name] = self.nodes.get(name, 0.0) + ms * share / max(whole, 1)

    def _uncovered(self, last: str) -> list[str]:
        """``last`` and the nodes before it that no kernel has covered."""
        found: dict[str, None] = {}
        waiting = [last]
        while waiting:
            name = waiting.pop()
            if name in found or name in self.covered:
                continue
            found[name] = None
            waiting += [self.anatomy.producers[item] for item in self.anatomy.inputs[name] if item in self.anatomy.producers]
        return list(found) or [last]

    def _target(self, kernel: KernelTime) -> str:
        """The tensor of the prepared model that the kernel computes, empty for inserted nodes."""
        for name in kernel.outputs:
            if name in self.anatomy.producers:
                return name
        bare = _bare(kernel.name)
        for name in (kernel.name, bare):
            if self.anatomy.outputs.get(name):
                return self._settled(self.anatomy.outputs[name][0])
            if name in self.anatomy.producers:
                return name
        return ""

    def _meant(self, tensor: str) -> str:
        if tensor in self.anatomy.settled:
            return tensor
        return self.meaning.get(tensor, "")

    def _settled(self, tensor: str) -> str:
        return self.anatomy.settled.get(tensor, tensor)

    def _nearest(self, tensor: str, forward: bool) -> str:
        """The quantized tensor nearest to where a conversion happens; QuantizeLinear moves up, DequantizeLinear down."""
        for step in (self._readers, self._sources) if forward else (self._sources, self._readers):
            seen, waiting = {tensor}, deque([tensor])
            while waiting and len(seen) < 32:
                name = waiting.popleft()
                if self._settled(name) in self.quantized:
                    return self._settled(name)
                more = [item for item in step(name) if item not in seen]
                seen.update(more)
                waiting += more
        return self._settled(tensor)

    def _sources(self, tensor: str) -> Iterable[str]:
        return self.anatomy.inputs.get(self.anatomy.producers.get(tensor, ""), ())

    def _readers(self, tensor: str) -> Iterable[str]:
        return [item for node in self.anatomy.readers.get(tensor, ()) for item in self.anatomy.outputs[node]]


def _bare(name: str) -> str:
    """A name without what the runtime added to it."""
    while (shorter := _MARK.sub("", name)) != name:
        name = shorter
    return name
