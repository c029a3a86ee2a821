"""4-bit codes of bitsandbytes: nf4 and fp4, with or without double quantization (Dettmers et al., QLoRA, 2023).

The tensor is one long row: `code i` is the high (even i) or low (odd i) half of byte i // 2, its value is
`map[code] * absmax[i // 64]` with the 16 values of `quant_map`. With double quantization absmax is itself coded:
`absmax[j] = nested_map[code j] * nested_absmax[j // 256] + offset`. Float32 in this order, as the library does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.base import Checkpoint
from surgery.math.stretch import stretch
from surgery.tensors import TensorSpec
from surgery_hf.quantized.tiles import Codec, Tile

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Nested:
    """What double quantization adds: scales and map of the coded absmax, its block and its offset."""

    absmax: TensorSpec
    map: TensorSpec
    block: int
    offset: float


@dataclass(frozen=True, slots=True)
class Blocks(Codec):
    """A tensor of any shape as 4-bit codes in blocks of `block` elements of the flattened tensor."""

    spec: TensorSpec
    codes: TensorSpec
    absmax: TensorSpec
    map: TensorSpec
    block: int
    nested: Nested | None = None

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return codes, absmax, the map, and what double quantization adds."""
        nested = (self.nested.absmax, self.nested.map) if self.nested else ()
        return (self.codes, self.absmax, self.map, *nested)

    @property
    def columns(self) -> int:
        """Return the number of elements: blocks run on from row to row."""
        return self.spec.numel

    def decode(self, source: Checkpoint, tile: Tile) -> torch.Tensor:
        """Return elements `tile.left` to `tile.right` of the flattened tensor."""
        import torch

        first = tile.left // 2
        # codes may be stored as another dtype than uint8, which only names the bytes
        data = stretch(source, TensorSpec(self.codes.name, (), "U8"), first, -(-tile.right // 2) - first)
        codes = torch.stack((data >> 4, data & 15), dim=-1).flatten()[tile.left % 2 :][
            : tile.right - tile.left
        ]
        values = stretch(source, self.map, 0, 16).take(codes.long())  # several times as fast as map[codes]
        begin = tile.left // self.block
        absmax = self._absmax(source, begin, -(-tile.right // self.block) - begin)
        values *= absmax.repeat_interleave(self.block)[tile.left - begin * self.block :][: len(values)]
        return values.view(tile.shape)

    def _absmax(self, source: Checkpoint, begin: int, count: int) -> torch.Tensor:
        import torch

        stored = stretch(source, self.absmax, begin, count)
        if self.nested is None:
            return stored
        first = begin // self.nested.block
        last = -(-(begin + count) // self.nested.block)
        scales = stretch(source, self.nested.absmax, first, last - first)
        values = stretch(source, self.nested.map, 0, 256).take(stored.long())
        values *= scales[torch.arange(begin, begin + count) // self.nested.block - first]
        return values.add_(self.nested.offset)
