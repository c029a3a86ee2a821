"""Reflections of a base: what delta.reflect stores and reads back. Imports torch where it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.checkpoint.base import Checkpoint
from surgery.notes import note_energy
from surgery.ops import Chunk
from surgery.tensors import TensorSpec
from surgery_delta._codec import Codec, Held, whole
from surgery_delta._matrices import Matrices
from surgery_delta.reflect import Reflect, sides, vectors

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_delta._hyperplanes import Vectors

# Elements of the base that are read at a time; part of the numbers.
_PIECE: Final = 1 << 18


def coded(x: Chunk, p: Reflect) -> Mapping[str, Tensor]:
    """Return the stored tensors of a whole tensor."""
    import torch

    from surgery.math.reduce import squared_norm
    from surgery_delta._checks import checks

    assert x.base is not None
    name, shape = x.signature.name, Matrices.in_call(x.signature)
    pairs = zip(
        x.base.reshape(-1, shape.rows, shape.columns),
        x.models[0].reshape(-1, shape.rows, shape.columns),
        strict=True,
    )
    found, left = [], []
    for base, model in pairs:
        one, error = fitted(base.double(), model.double(), p)
        found.append([vector for side in sides(p) for vector in one[side]])
        left.append(error)
    made = {
        f"{name}.{suffix}": torch.stack([one[at] for one in found]).view(size).to(x.base.dtype)
        for at, (suffix, size) in enumerate(vectors(shape, p))
    }
    total = squared_norm((x.models[0] - x.base).reshape(-1))
    note_energy(x, max(total - math.fsum(left), 0.0), total)
    return {**made, f"{name}.base": checks(x.base.reshape(x.signature.first.shape[0], -1))}


def fitted(base: Tensor, model: Tensor, p: Reflect) -> tuple[dict[str, Vectors], float]:
    """Return the vectors of every side, and ‖H·base·H - model‖²; matrices in float64."""
    from surgery_delta._hyperplanes import nearest

    found: dict[str, Vectors] = {}
    for _ in range(p.sweeps if p.side == "both" else 1):
        for side in sides(p):
            others = {other: vector for other, vector in found.items() if other != side}
            before, after = (_blocks(M, side, p) for M in (reflected(base, others, p), model))
            found[side] = nearest(before, after, p.sweeps, found.get(side), plus=p.method == "ether_plus")
    return found, float((reflected(base, found, p) - model).square().sum())


def reflected(matrix: Tensor, found: Mapping[str, Vectors], p: Reflect) -> Tensor:
    """Return H·W·H of a whole matrix."""
    from surgery_delta._hyperplanes import turned

    for side, of_blocks in found.items():
        blocks = turned(_blocks(matrix, side, p), tuple(vector.unsqueeze(1) for vector in of_blocks))
        matrix = _joined(blocks, matrix, side, p)
    return matrix


def _blocks(matrix: Tensor, side: str, p: Reflect) -> Tensor:
    """Return what each block of H turns, [blocks, stretches, w]."""
    if side == "out":
        return matrix.view(p.blocks, -1, matrix.shape[1]).transpose(1, 2)
    stretches = matrix.view(len(matrix), p.blocks, -1)
    return stretches.transpose(0, 1) if p.cut == "columns" else stretches.reshape(p.blocks, len(matrix), -1)


def _joined(blocks: Tensor, like: Tensor, side: str, p: Reflect) -> Tensor:
    """Undo `_blocks`."""
    if side == "out":
        return blocks.transpose(1, 2).reshape(like.shape)
    return (blocks.transpose(0, 1) if p.cut == "columns" else blocks).reshape(like.shape)


@dataclass(frozen=True, slots=True)
class Reflections(Codec):
    """What delta.reflect stores: vectors of any length, made one long; a vector of zeros turns nothing."""

    spec: TensorSpec
    vectors: tuple[tuple[str, TensorSpec], ...]
    shape: Matrices
    p: Reflect

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return all vectors."""
        return tuple(spec for _, spec in self.vectors)

    @property
    def held(self) -> int:
        """Return the numbers of all vectors, and of their products with the base."""
        products = self.shape.count * self.p.blocks * self.shape.columns
        out = sum(suffix.endswith("_out") for suffix, _ in self.vectors)
        return sum(spec.numel for _, spec in self.vectors) + out * products

    def begin(self, source: Checkpoint, base: Checkpoint) -> Held:
        """Return vectors of length one [matrices, blocks, w] in float64, and uᵀW of every block of outputs."""
        held: dict[str, Tensor] = {}
        for suffix, spec in self.vectors:
            stored = whole(source, spec).double().view(self.shape.count, self.p.blocks, -1)
            lengths = stored.norm(dim=-1, keepdim=True)
            held[suffix] = stored / lengths.masked_fill(lengths == 0, 1)
            if suffix.endswith("_out"):
                held[f"{suffix}_W"] = self._products(held[suffix], base)
        return held

    def onto(self, rows: Tensor, source: Checkpoint, first: int, held: Held) -> Tensor:
        """Return reflected rows, computed in float64."""
        import torch

        made, at = [], 0
        wide = rows.double().view(-1, self.shape.columns)
        for index, begin, end in self.shape.stretches(first, first + len(rows)):
            W = wide[at : at + end - begin]
            made.append(self._in(self._out(W, index, begin, held), index, begin, held))
            at += end - begin
        return torch.cat(made).view(rows.shape).to(rows.dtype)

    def _out(self, W: Tensor, index: int, first: int, held: Held) -> Tensor:
        """Return H·W on some rows of a matrix, by the products of the whole matrix."""
        if "u_out" not in held:
            return W
        import torch

        block = torch.arange(first, first + len(W)) // held["u_out"].shape[-1]

        def along(which: str) -> Tensor:
            numbers = held[which][index].view(-1)[first : first + len(W), None]
            return numbers * held[f"{which}_W"][index, block]

        return W - along("u_out") + along("v_out") if "v_out" in held else W - 2 * along("u_out")

    def _in(self, W: Tensor, index: int, first: int, held: Held) -> Tensor:
        """Return W·H on some rows of a matrix."""
        if "u_in" not in held:
            return W
        import torch

        from surgery_delta._hyperplanes import turned

        found = tuple(held[which][index] for which in ("u_in", "v_in") if which in held)
        if self.p.cut == "rows":
            block = torch.arange(first, first + len(W)) // (self.shape.rows // self.p.blocks)
            found = tuple(vector[block].unsqueeze(1) for vector in found)
        return turned(W.view(len(W), self.p.blocks, -1), found).view(W.shape)

    def _products(self, u: Tensor, base: Checkpoint) -> Tensor:
        """Return uᵀW of every block of rows of every matrix, [matrices, blocks, columns] in float64."""
        import torch

        from surgery.math.stretch import stretch

        spec, (count, blocks, size), columns = base.tensors[self.spec.name], u.shape, self.shape.columns
        made = torch.zeros(count * blocks, columns, dtype=torch.float64)
        step = max(1, _PIECE // columns)
        for block, vector in enumerate(u.view(-1, size)):
            for at in range(0, size, step):
                rows = min(step, size - at)
                flat = stretch(base, spec, (block * size + at) * columns, rows * columns)
                made[block] += vector[at : at + rows] @ flat.double().view(rows, columns)
        return made.view(count, blocks, columns)
