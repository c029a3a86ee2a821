"""What adapter.init and adapter.residual agree on: the factors that a weight begins with, as they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from surgery.ops import Signature
from surgery_adapter._factors import factor_bytes
from surgery_adapter._kinds import DEFAULT_RANK, Factored, pair, pair_shape, rank_of, transposed

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_adapter._start import Pair

Method = Literal["zero", "svd", "qr", "nystrom", "ldu"]

# Below these shares of the largest, singular values of a block and pivots are not divided by.
_TOLERANCE: Final = {"nystrom": 1e-2, "ldu": 1e-6}
_DOUBLE: Final = 8


class Begin(Factored):
    """Parameters of adapter.init and adapter.residual."""

    method: Method = "zero"
    """`zero`: B is 0. Others take a part of the weight: PiSSA (`svd`), OLoRA (`qr`), NLoRA (`nystrom`), LoLDU."""

    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The scale is alpha/rank; by default alpha is the rank. Smaller matrices' ranks have the same scale."""

    pivots: Literal["leading", "norm"] = "leading"
    """Rows and columns that `nystrom` takes: the first, or the longest."""

    tol: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the largest below which `nystrom` drops singular values of its block (0.01), `ldu` pivots (1e-6)."""


def scale_of(p: Begin) -> float:
    """Return s in W_res + s·B·A = W."""
    rank = p.rank or DEFAULT_RANK
    return 1.0 if p.alpha is None else p.alpha / rank


def stored_factors(W: Tensor, signature: Signature, p: Begin) -> Pair:
    """Return A [rank, in] and B [out, rank] in float64, rounded to the dtype that they are stored in.

    s·B·A is the part of W that the method takes; 0 for `zero`, whose A is not drawn yet.
    """
    from surgery.math.convert import torch_dtype

    matrix = W.T if transposed(signature, p) else W
    root, dtype = scale_of(p) ** 0.5, torch_dtype(pair(signature, p)[0].dtype)
    A, B = ((factor / root).to(dtype).double() for factor in _part(matrix, signature, p))
    return A, B


def _part(W: Tensor, signature: Signature, p: Begin) -> Pair:
    """Return factors of the part of W that a method takes."""
    from surgery_adapter import _start

    rank, tol = rank_of(signature, p), _TOLERANCE.get(p.method, 0.0) if p.tol is None else p.tol
    if p.method == "svd":
        return _start.svd(W, rank, signature.name)
    if p.method == "qr":
        return _start.qr(W, rank)
    if p.method == "nystrom":
        return _start.nystrom(W, rank, p.pivots, tol)
    if p.method == "ldu":
        return _start.ldu(W, rank, tol)
    return W.new_zeros(rank, W.shape[1]).double(), W.new_zeros(len(W), rank).double()


def begin_bytes(signature: Signature, p: Begin) -> int:
    """Return the temporaries of `stored_factors` in bytes: the weight twice, its decomposition, and the factors."""
    rows, columns = shape = pair_shape(signature, p)
    rank = rank_of(signature, p)
    found = factor_bytes(shape, rank) if p.method == "svd" else _DOUBLE * (rows * columns + 6 * rank * rank)
    return found + _DOUBLE * (rows * columns + 6 * rank * (rows + columns))
