"""The band of |τ| that a model keeps of every row of its delta, where `scope: row` compares the elements of rows only.

A row is an output of a Linear: the last dimension of a matrix or of a stack of experts, all but the first of a
convolution's kernel; a vector is one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.ops import Chunk, Signature
from surgery.targets import is_stack
from surgery_merge._common import subtract
from surgery_merge._trim import Band

if TYPE_CHECKING:
    from torch import Tensor

# Elements that are selected from at a time: what it takes besides stays small.
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class RowCuts:
    """The least and the largest |τ| that stay in each row [rows, 1], and what they are multiplied with."""

    low: Tensor
    high: Tensor
    factor: Tensor | None = None


def row_length(signature: Signature) -> int:
    """Return the elements of a row."""
    spec = signature.first
    if is_stack(signature):
        return spec.shape[-1]
    return spec.row if len(spec.shape) > 1 else spec.numel


def row_cuts(x: Chunk, index: int, band: Band, *, rescale: bool) -> RowCuts | None:
    """Return what stays of a model's rows; None if nothing does. Uses scratch buffer 0.

    `rescale`: what stays of a row is multiplied so that its Σ|τ| is as before, taken in float64.
    """
    import torch

    if band.last == 0:
        return None
    rows = _rows(x, subtract(x, index, x.scratch(0)))
    low, high, factor = (rows.new_empty(len(rows), 1) for _ in range(3))
    for here in _pieces(rows):
        size = rows[here].abs()
        low[here] = _largest(size, band.last)
        high[here] = _largest(size, band.first) if band.first > 1 else math.inf
        if rescale:
            before = size.sum(1, keepdim=True, dtype=torch.float64)
            left = size.mul_(_inside(size, low[here], high[here])).sum(1, keepdim=True, dtype=torch.float64)
            factor[here] = torch.where(left > 0, before / left, 1.0).to(factor.dtype)
    return RowCuts(low, high, factor if rescale else None)


def in_band(x: Chunk, index: int, cuts: RowCuts, out: Tensor) -> Tensor:
    """Fill `out` with a model's delta, 0 where it does not stay."""
    rows = _rows(x, subtract(x, index, out))
    for here in _pieces(rows):
        delta = rows[here]
        delta.mul_(_inside(delta.abs(), cuts.low[here], cuts.high[here]))
        if cuts.factor is not None:
            delta.mul_(cuts.factor[here])
    return out


def _inside(size: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (size >= low).logical_and_(size <= high)


def _largest(size: Tensor, k: int) -> Tensor:
    """Return the k-th largest of each row, [rows, 1]."""
    import torch

    found: Tensor = torch.kthvalue(size, size.shape[1] - k + 1, dim=1, keepdim=True).values
    return found


def _rows(x: Chunk, tensor: Tensor) -> Tensor:
    return tensor.view(-1, row_length(x.signature))


def _pieces(rows: Tensor) -> Iterator[slice]:
    """Yield stretches of rows."""
    count = max(_PIECE // max(rows.shape[1], 1), 1)
    return (slice(first, first + count) for first in range(0, len(rows), count))
