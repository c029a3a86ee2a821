"""Changes as Σ A ⊗ B: what delta.kronecker stores and reads back. Imports torch where it computes.

Row g·m + i of A ⊗ B, where B has m rows, is row g of A times row i of B: [a₁·b, a₂·b, ...].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.base import Checkpoint
from surgery.notes import note_energy
from surgery.ops import Chunk
from surgery.tensors import TensorSpec
from surgery_delta._codec import Added, Held, floats, whole
from surgery_delta._matrices import Matrices
from surgery_delta.kronecker import Kronecker, grid, sizes

if TYPE_CHECKING:
    from torch import Tensor


def coded(x: Chunk, p: Kronecker) -> Mapping[str, Tensor]:
    """Return the stored tensors of a whole tensor."""
    import torch

    from surgery.math.reduce import squared_norm
    from surgery_delta._checks import checks

    assert x.base is not None
    name, delta, shape = x.signature.name, x.models[0] - x.base, Matrices.in_call(x.signature)
    found = [
        products(matrix, p, shape, called)
        for called, matrix in zip(shape.names(name), delta.view(-1, shape.rows, shape.columns), strict=True)
    ]
    note_energy(x, math.fsum(kept for kept, _ in found), squared_norm(delta.reshape(-1)))
    made = {suffix: torch.stack([one[suffix] for _, one in found]) for suffix in found[0][1]}
    stored = {
        f"{name}.{suffix}": (value if shape.stacked else value[0]).to(delta.dtype)
        for suffix, value in made.items()
    }
    return {**stored, f"{name}.base": checks(x.base.reshape(delta.shape[0], -1))}


def products(matrix: Tensor, p: Kronecker, shape: Matrices, name: str) -> tuple[float, dict[str, Tensor]]:
    """Return the sum of squares that is kept, and what is stored of one matrix, by suffix, in float64."""
    from surgery.math.svd import svd_largest

    (rows, columns), (high, wide, terms, rank) = grid(p), sizes(shape, p)
    blocks = matrix.double().view(rows, high, columns, wide).transpose(1, 2)
    U, S, Vh = svd_largest(blocks.reshape(rows * columns, high * wide), terms, name)
    S, root = S[:terms], S[:terms].sqrt()
    left = (U[:, :terms] * root).T.reshape(terms, rows, columns)
    right = Vh[:terms].view(terms, high, wide)
    if rank is None:
        whole = (right * root[:, None, None]).transpose(0, 1)
        return float(S.square().sum()), {"left": left, "right": whole}
    kept, tall, thin = _factored(right, root, rank, name)
    return float((S.square() * kept).sum()), {"left": left, "tall": tall, "wide": thin}


def _factored(right: Tensor, root: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each B, of length one here, the share that is kept, and its factors times the length it should have."""
    import torch

    from surgery.math.svd import svd_largest

    kept, tall, wide = [], [], []
    for index, (B, length) in enumerate(zip(right, root, strict=True)):
        U, S, Vh = svd_largest(B, rank, f"{name}.{index}")
        half = (S[:rank] * length).sqrt()
        kept.append(S[:rank].square().sum())
        tall.append(U[:, :rank] * half)
        wide.append(half[:, None] * Vh[:rank])
    return torch.stack(kept), torch.stack(tall, 1), torch.stack(wide)


@dataclass(frozen=True, slots=True)
class Products(Added):
    """What delta.kronecker stores: `right` has every B row by row, or its first factor; `wide` the second."""

    spec: TensorSpec
    left: TensorSpec
    right: TensorSpec
    wide: TensorSpec | None
    shape: Matrices

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the large matrices first."""
        return (self.right, *((self.wide,) if self.wide else ()), self.left)

    @property
    def held(self) -> int:
        """Return the numbers of the small matrices and second factors."""
        return self.left.numel + (self.wide.numel if self.wide else 0)

    def begin(self, source: Checkpoint, base: Checkpoint) -> Held:
        """Return the small matrices and second factors, those of each matrix of a stack one after the other."""
        held = {"left": whole(source, self.left).view(-1, *self.left.shape[-3:])}
        if self.wide:
            held["wide"] = whole(source, self.wide).view(-1, *self.wide.shape[-3:])
        return held

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change."""
        import torch

        made = [self._rows(source, held, *stretch) for stretch in self.shape.stretches(first, last)]
        return torch.cat(made).view(last - first, self.spec.row)

    def _rows(self, source: Checkpoint, held: Held, index: int, first: int, last: int) -> Tensor:
        """Return rows of one matrix, block row by block row."""
        import torch

        high, terms, width = self.right.shape[-3:]
        left, at = held["left"][index], index * high
        made = []
        for group in range(first // high, -(-last // high)):
            begin, end = max(first - group * high, 0), min(last - group * high, high)
            right = floats(source, self.right, at + begin, at + end, terms * width).view(-1, terms, width)
            if self.wide:
                right = (right.unsqueeze(2) @ held["wide"][index]).squeeze(2)
            made.append((left[:, group].T @ right).flatten(1))
        return torch.cat(made)
