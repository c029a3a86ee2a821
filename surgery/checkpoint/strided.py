"""Reads a strided view of a file as contiguous bytes, piece by piece, in bounded memory.

Pickles hold transposed and sliced tensors as views of their storage. A range of the view's elements,
counted in C order, is cut into boxes; a box whose bytes lie close together in the file is read in one go
and copied from there, any other is halved along the dimension that spreads it most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# One read, and so the memory that a gather takes.
PIECE: Final = 8 << 20
# A hole that takes about as long to read as one more call does: smaller ones are read with what is around them.
_GAP: Final = 1 << 16

Read = Callable[[int, memoryview], None]
Ints = tuple[int, ...]


class View(NamedTuple):
    """A strided view: its first element's byte offset, shape in elements, strides in bytes, element size."""

    offset: int
    shape: Ints
    strides: Ints
    itemsize: int

    @property
    def contiguous(self) -> bool:
        """Return whether the bytes in C order are one stretch."""
        if 0 in self.shape:
            return True
        expected = self.itemsize
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def span(self) -> int:
        """Return the bytes from the first element's first to the last element's last."""
        return _span(self.shape, self.strides, self.itemsize)


def gather(read: Read, view: View, start: int, out: memoryview) -> None:
    """Fill `out` with the view's bytes in C order from byte `start` on; `read(offset, buffer)` reads."""
    if not out.nbytes:
        return
    if start % view.itemsize or out.nbytes % view.itemsize:
        # a range that cuts elements in two: go by bytes
        view = View(view.offset, (*view.shape, view.itemsize), (*view.strides, 1), 1)
    kind = np.dtype(f"u{view.itemsize}")
    target = np.frombuffer(out, dtype=np.uint8).view(kind)
    first, done = start // view.itemsize, 0
    scratch = np.empty(min(PIECE, view.span), dtype=np.uint8)
    for begin, sizes in boxes(view.shape, first, first + len(target)):
        count = math.prod(sizes)
        offset = view.offset + sum(i * stride for i, stride in zip(begin, view.strides, strict=True))
        _copy(read, offset, view.strides, target[done : done + count].reshape(sizes), scratch)
        done += count


def boxes(shape: Ints, first: int, last: int) -> Iterator[tuple[Ints, Ints]]:
    """Cut the range [first, last) of a shape's elements in C order into boxes (begin, sizes), in order."""
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    i, left = divmod(first, row)
    j, right = divmod(last, row)
    if i == j:
        yield from (((i, *begin), (1, *sizes)) for begin, sizes in boxes(shape[1:], left, right))
        return
    if left:
        yield from (((i, *begin), (1, *sizes)) for begin, sizes in boxes(shape[1:], left, row))
        i += 1
    if i < j:
        yield (i, *(0 for _ in shape[1:])), (j - i, *shape[1:])
    if right:
        yield from (((j, *begin), (1, *sizes)) for begin, sizes in boxes(shape[1:], 0, right))


def _span(shape: Ints, strides: Ints, itemsize: int) -> int:
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + itemsize


def _copy(read: Read, offset: int, strides: Ints, out: NDArray[Any], scratch: NDArray[np.uint8]) -> None:
    """Copy the box at `offset` into `out`, which has its shape."""
    span = _span(out.shape, strides, out.itemsize)
    spreads = [(size - 1) * stride for size, stride in zip(out.shape, strides, strict=True)]
    spread = max(spreads, default=0)
    axis = spreads.index(spread) if spreads else 0
    gap = strides[axis] - (span - spread) if spread else 0
    if span <= PIECE and gap <= _GAP:
        read(offset, scratch.data[:span])
        out[...] = np.ndarray(out.shape, out.dtype, buffer=scratch, strides=strides)
        return
    half = out.shape[axis] // 2
    before = (slice(None),) * axis
    _copy(read, offset, strides, out[(*before, slice(None, half))], scratch)
    _copy(read, offset + half * strides[axis], strides, out[(*before, slice(half, None))], scratch)
