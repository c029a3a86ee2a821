"""Ranges of a tensor become tiles, and tiles become reads: what every decoder shares.

    flat elements [start, stop) of an [R, C] matrix = the end of a row, whole rows, the beginning of a row

A tile is whole rows or a part of one row, so that what is stored for it is one stretch of every part. Tiles are small:
what a decoder holds at a time does not grow with the range that is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from surgery.checkpoint.base import Checkpoint
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Elements; a decoder holds a handful of float32 and int32 copies of a tile: a few MiB for each thread that reads.
MOST: Final = 1 << 18


class Tile(NamedTuple):
    """Rows `top` to `bottom` (exclusive) and columns `left` to `right` (exclusive) of a matrix."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of rows and columns."""
        return self.bottom - self.top, self.right - self.left


class Codec(ABC):
    """How one tensor is stored: `parts` are the stored tensors, its codes first.

    `spec` is the tensor that they stand for, always float32 (see docs/quantized-sources.md for the reason). `columns`
    is the width of the matrix that tiles are cut from: a row of the tensor, or all of it where blocks run on from row
    to row. Codecs are frozen dataclasses: their `repr` holds everything that decoding depends on but the bytes.
    """

    __slots__ = ()

    spec: TensorSpec

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the stored tensors, the codes first."""

    @property
    def columns(self) -> int:
        """Return the width of the matrix that tiles are cut from."""
        return self.spec.row

    @abstractmethod
    def decode(self, source: Checkpoint, tile: Tile) -> torch.Tensor:
        """Return a tile's values, float32 of the tile's shape; reads no more than the tile needs."""


def tiles(start: int, stop: int, columns: int) -> Iterator[Tile]:
    """Yield the tiles that elements `start` to `stop` of a matrix consist of, in order."""
    while start < stop:
        row, left = divmod(start, columns)
        if left or stop - start < columns or columns > MOST:
            right = min(columns, left + min(stop - start, MOST))
            yield Tile(row, row + 1, left, right)
            start += right - left
        else:
            rows = min((stop - start) // columns, MOST // columns)
            yield Tile(row, row + rows, 0, columns)
            start += rows * columns
