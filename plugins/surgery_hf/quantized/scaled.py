"""Codes times scales: compressed-tensors' integer and float formats, fp8 in blocks, int8 of bitsandbytes.

    W[r, c] = (q[r, c] - z[r // h, k]) * s[r // h, k] * factor,   k = c // w, or order[c] with activation order

A scale belongs to `h` rows and `w` columns: (R, C) for a tensor, (1, C) for a channel, (1, g) for a group, (128, 128)
for DeepSeek's blocks, where the last ones may be cut off. Everything is computed in float32: the product of an int8 or
e4m3 code and a 16-bit scale is exact, that with a float32 scale is rounded once, as in the formats' own libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.base import Checkpoint
from surgery.errors import CheckpointError
from surgery.math.packing import period, unpack, words_for
from surgery.math.stretch import stretch
from surgery.tensors import TensorSpec
from surgery_hf.quantized.tiles import Codec, Tile

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Cells:
    """The matrix that scales and zero points are kept in: a number for every `height` rows and `width` columns."""

    height: int
    width: int
    shape: tuple[int, int]

    def rows(self, tile: Tile) -> tuple[int, int]:
        """Return the first row of cells that a tile touches and how many they are."""
        first = tile.top // self.height
        return first, -(-tile.bottom // self.height) - first


def cells_for(shape: tuple[int, int], height: int, width: int) -> Cells:
    """Return the cells of a matrix; the last may be cut off by its edges."""
    return Cells(height, width, (-(-shape[0] // height), -(-shape[1] // width)))


@dataclass(frozen=True, slots=True)
class Packed:
    """Codes of 2 to 8 bits in 32-bit words, `axis` the one along which they are packed; stored as q + 2^(bits-1)."""

    spec: TensorSpec
    bits: int
    axis: int = 1

    def read(self, source: Checkpoint, tile: Tile, columns: int) -> torch.Tensor:
        """Return a tile's codes as float32; `columns` is the number of codes in a row of the matrix."""
        return self._across(source, tile, columns) if self.axis else self._down(source, tile, columns)

    def _across(self, source: Checkpoint, tile: Tile, columns: int) -> torch.Tensor:
        many, few = period(self.bits)
        first = tile.left // many * many
        begin = tile.top * words_for(columns, self.bits) + first // many * few
        shape = tile.bottom - tile.top, words_for(tile.right - first, self.bits)
        words = stretch(source, self.spec, begin, shape[0] * shape[1]).view(shape)
        return self._signed(unpack(words, self.bits, tile.right - first)[:, tile.left - first :])

    def _down(self, source: Checkpoint, tile: Tile, columns: int) -> torch.Tensor:
        many, few = period(self.bits)
        first = tile.top // many * many
        shape = words_for(tile.bottom - first, self.bits), columns
        words = stretch(source, self.spec, first // many * few * columns, shape[0] * shape[1]).view(shape)
        codes = unpack(words, self.bits, tile.bottom - first, axis=0)[tile.top - first :]
        return self._signed(codes[:, tile.left : tile.right])

    def _signed(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes - (1 << (self.bits - 1))).float()


@dataclass(frozen=True, slots=True)
class Plain:
    """Numbers that are stored one by one, in any dtype that torch turns into float32."""

    spec: TensorSpec

    def read(self, source: Checkpoint, tile: Tile, columns: int) -> torch.Tensor:
        """Return a tile's numbers as float32; `columns` is the number of them in a row of the matrix."""
        rows, across = tile.shape
        return (
            stretch(source, self.spec, tile.top * columns + tile.left, rows * across)
            .view(rows, across)
            .float()
        )


@dataclass(frozen=True, slots=True)
class Scaled(Codec):
    """A matrix [R, C] as codes, scales, perhaps zero points, perhaps an activation order (I32 [C])."""

    spec: TensorSpec
    codes: Packed | Plain
    cells: Cells
    scales: Plain
    zeros: Packed | Plain | None = None
    order: TensorSpec | None = None
    factor: float = 1.0

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return codes, scales, zero points and order, as far as there are such."""
        zeros = (self.zeros.spec,) if self.zeros else ()
        return (self.codes.spec, self.scales.spec, *zeros, *((self.order,) if self.order else ()))

    def decode(self, source: Checkpoint, tile: Tile) -> torch.Tensor:
        """Return a tile's values. Raises CheckpointError for an activation order that names no group."""
        values = self.codes.read(source, tile, self.columns)
        groups = self._groups(source, tile)
        if self.zeros is not None:
            values -= self._spread(self.zeros, source, tile, groups)
        values *= self._spread(self.scales, source, tile, groups)
        return values if self.factor == 1.0 else values.mul_(self.factor)

    def _groups(self, source: Checkpoint, tile: Tile) -> torch.Tensor | None:
        """Return which column of cells each column of the tile belongs to; None if there is only one."""
        import torch

        if self.cells.shape[1] == 1:
            return None
        columns = torch.arange(tile.left, tile.right)
        if self.order is None:
            return columns // self.cells.width
        order = stretch(source, self.order, 0, self.columns).long()
        if bool((order == -1).all()):  # what writers leave when there was no activation order after all
            return columns // self.cells.width
        if not 0 <= int(order.min()) <= int(order.max()) < self.cells.shape[1]:
            raise CheckpointError(
                f"{source.location}: tensor `{self.order.name}`: names groups {int(order.min())} to"
                f" {int(order.max())}, there are {self.cells.shape[1]}; the file is damaged, fetch it anew"
            )
        return order[tile.left : tile.right]

    def _spread(
        self, stored: Packed | Plain, source: Checkpoint, tile: Tile, groups: torch.Tensor | None
    ) -> torch.Tensor:
        """Return scales or zero points in a shape that broadcasts to the tile's."""
        import torch

        first, count = self.cells.rows(tile)
        cells = stored.read(source, Tile(first, first + count, 0, self.cells.shape[1]), self.cells.shape[1])
        if count > 1 and self.cells.height > 1:
            cells = cells[torch.arange(tile.top, tile.bottom) // self.cells.height - first]
        # index_select is several times as fast as cells[:, groups]
        return cells if groups is None else cells.index_select(1, groups)
