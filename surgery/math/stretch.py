"""Ranges of stored tensors as numbers, and of computed ones as bytes: what readers that compute share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from surgery.tensors import TensorSpec, nbytes

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.checkpoint.base import Checkpoint


def stretch(source: Checkpoint, spec: TensorSpec, start: int, count: int) -> Tensor:
    """Return `count` elements of a stored tensor from flat element `start` on: 1-D, in their dtype."""
    from surgery.math.convert import as_tensor

    data = bytearray(nbytes(count, spec.dtype))
    source.read_into(spec.name, nbytes(start, spec.dtype), memoryview(data))
    return as_tensor(data, spec.dtype)


def fill_from_blocks(
    spec: TensorSpec, rows: int, start: int, buffer: memoryview, block: Callable[[int], Tensor]
) -> None:
    """Fill `buffer` with bytes of a tensor from byte `start` on, computed by blocks of `rows` rows.

    `block(first)` returns the rows from `first` on, fewer at the end, contiguous, of the dtype of `spec` and on the
    CPU. Blocks begin at the same rows whatever the range, so that bytes do not depend on it. Raises ValueError for a
    range that is not within the tensor.
    """
    import torch

    stop = start + buffer.nbytes
    if start < 0 or stop > spec.nbytes:
        raise ValueError(f"{spec.name}: bytes {start} to {stop} of {spec.nbytes}")
    if stop == start:
        return
    out, width = buffer.cast("B"), nbytes(rows * spec.row, spec.dtype)
    for at in range(start // width * width, stop, width):
        made = block(at // width * rows).reshape(-1).view(torch.uint8).numpy().data
        low, high = max(start, at), min(stop, at + made.nbytes)
        out[low - start : high - start] = made[low - at : high - at]
