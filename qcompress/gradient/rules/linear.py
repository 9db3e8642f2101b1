"""Gradients of products of matrices."""

from __future__ import annotations

from qcompress.gradient.broadcasting import unbroadcast
from qcompress.gradient.step import Gradients, Step
from qcompress.gradient.tape import NoGradientError, Tensor


def gemm(step: Step) -> Gradients:
    """Gemm: Y = alpha A' B' + beta C, A' and B' transposed or not; dA' = alpha dY B'T, dB' = alpha A'T dY, dC = beta dY."""
    a, b, dy = step.input(0), step.input(1), step.gradient
    turned_a, turned_b = step.integer("transA", 0), step.integer("transB", 0)
    alpha, beta = step.real("alpha", 1.0), step.real("beta", 1.0)
    found = {}
    if step.needs(0):
        found[0] = _product(b, dy, turned_b, 1, alpha) if turned_a else _product(dy, b, 0, 1 - turned_b, alpha)
    if step.needs(1):
        found[1] = _product(dy, a, 1, turned_a, alpha) if turned_b else _product(a, dy, 1 - turned_a, 0, alpha)
    if step.needs(2):
        scaled = dy if beta == 1.0 else dy * beta
        found[2] = unbroadcast(scaled, step.input(2), step.output())
    return found


def matmul(step: Step) -> Gradients:
    """MatMul: Y = A B; dA = dY BT, dB = AT dY, summed over the batches an operand was repeated for."""
    a, b = step.input(0), step.input(1)
    if b.rank == 2 and a.rank >= 2:
        return _with_matrix(step, a, b)
    dy = step.gradient
    for axis in ([-2] if a.rank == 1 else []) + ([-1] if b.rank == 1 else []):
        dy = dy.unsqueeze([axis])  # vectors are matrices of one row or column
    found = {}
    if step.needs(0):
        turned = b.unsqueeze([0]) if b.rank == 1 else _turned(b)
        found[0] = _summed(step, step.tape.node("MatMul", (dy, turned)), a, b)
    if step.needs(1):
        turned = a.unsqueeze([1]) if a.rank == 1 else _turned(a)
        found[1] = _summed(step, step.tape.node("MatMul", (turned, dy)), b, a)
    return found


def _with_matrix(step: Step, a: Tensor, b: Tensor) -> Gradients:
    """One matrix for all batches: they are rows of one large product, and nothing is turned or summed in memory."""
    tape = step.tape
    columns = tape.extents(b, [1])
    rows = step.gradient.reshape(tape.concat([tape.ints([-1]), columns]))
    found = {}
    if step.needs(0):
        product = _product(rows, b, 0, 1)
        found[0] = product if a.rank == 2 else product.reshape(tape.shape(a))
    if step.needs(1):
        inputs = a if a.rank == 2 else a.reshape(tape.concat([tape.ints([-1]), tape.extents(b, [0])]))
        found[1] = _product(inputs, rows, 1, 0)
    return found


def einsum(step: Step) -> Gradients:
    """Einsum: the gradient of an operand is an Einsum of dy and the other operands, its own letters as the result."""
    equation = step.text("equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = "".join(sorted(set(left) - {","}))
        result = "".join(letter for letter in letters if left.count(letter) == 1)
    found = {}
    for index, term in enumerate(terms):
        if not step.needs(index):
            continue
        others = [item for other, item in enumerate(terms) if other != index]
        if "." in equation or len(set(term)) < len(term) or not set(term) <= set(result).union(*others):
            raise NoGradientError(f"has no rule for {equation!r}")
        operands = [step.gradient, *(step.input(other) for other in range(len(terms)) if other != index)]
        backward = f"{','.join([result, *others])}->{term}"
        found[index] = step.tape.node("Einsum", operands, {"equation": backward})
    return found


def _product(a: Tensor, b: Tensor, turned_a: int, turned_b: int, alpha: float = 1.0) -> Tensor:
    attributes: dict[str, int | float] = {"transA": turned_a, "transB": turned_b, "alpha": float(alpha)}
    return a.tape.node("Gemm", (a, b), attributes)


def _turned(tensor: Tensor) -> Tensor:
    rank = tensor.rank
    return tensor.transpose([*range(rank - 2), rank - 1, rank - 2])


def _summed(step: Step, whole: Tensor, operand: Tensor, other: Tensor) -> Tensor:
    """A product's gradient, summed over the batches that its operand was repeated for."""
    tape = step.tape
    if operand.rank == 1:
        return whole.reshape(tape.concat([tape.ints([-1]), tape.shape(operand)])).sum([0], keep=False)
    if other.rank == 1:
        return whole
    batches = step.output().dims
    dims = None if batches is None or operand.dims is None else batches[:-2] + operand.dims[-2:]
    return unbroadcast(whole, operand, Tensor(tape, whole.value, whole.dtype, dims))
