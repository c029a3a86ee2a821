"""Changes on a random basis: what delta.basis fits, stores and reads back. Imports torch where it computes.

Both factors are sums of random matrices [size, rank]: B of `size` rows, and A turned about, of `size` columns. Number
j of `count` of such a matrix's element (i, k) is draw (i·rank + k)·count + j of the factor's stream, so that some rows
of all matrices are one run of draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.checkpoint.base import Checkpoint
from surgery.notes import note_energy
from surgery.ops import Chunk
from surgery.tensors import TensorSpec
from surgery_delta._codec import Added, Held, whole
from surgery_delta._matrices import Matrices
from surgery_delta.basis import PIECE, Basis, parts, rank_of

if TYPE_CHECKING:
    from torch import Tensor

B: Final = 0  # streams
A: Final = 1
_VERSION: Final = 1  # of the numbers; part of `generator` in the config

# Singular values of a system below this share of the largest say nothing in float64.
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Span:
    """The random matrices [size, rank] of a factor."""

    name: str  # of the tensor, with the expert's index
    stream: int
    seed: int
    size: int
    rank: int
    count: int

    def rows(self, first: int, last: int) -> Tensor:
        """Return some rows of all matrices, [rows·rank, count] in float64."""
        import torch

        from surgery.math.random import stream_key, uniform

        key = stream_key(self.seed, "delta.basis", self.name, self.stream, _VERSION)
        draws = torch.empty((last - first) * self.rank, self.count, dtype=torch.float64)
        uniform(key, first * self.rank * self.count, draws)
        # 2u - 1 has the variance 1/3
        return draws.mul_(2).sub_(1).mul_(math.sqrt(3 / (self.size * self.rank)))

    def pieces(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield all rows of all matrices, about `PIECE` numbers at a time."""
        step = max(1, PIECE // (self.rank * self.count))
        for first in range(0, self.size, step):
            last = min(first + step, self.size)
            yield first, last, self.rows(first, last)

    def factor(self, coefficients: Tensor) -> Tensor:
        """Return the sum of all matrices times their coefficients, [size, rank] in float64."""
        import torch

        wide = coefficients.double()
        return torch.cat([rows @ wide for _, _, rows in self.pieces()]).view(self.size, self.rank)

    def nearest(self, product: Tensor, metric: Tensor) -> tuple[Tensor, float]:
        """Return the coefficients of the F = Σ cⱼ·Fⱼ with the least tr(F·metric·Fᵀ) - 2·⟨F, product⟩, and that."""
        import torch

        gram = torch.zeros(self.count, self.count, dtype=torch.float64)
        right = torch.zeros(self.count, dtype=torch.float64)
        for first, last, rows in self.pieces():
            turned = (metric @ rows.view(last - first, self.rank, self.count)).flatten(0, 1)
            gram += rows.T @ turned
            right += rows.T @ product[first:last].reshape(-1)
        found = torch.linalg.pinv(gram, hermitian=True, rtol=_TINY) @ right
        return found, float(found @ gram @ found - 2 * (found @ right))


def spans(name: str, shape: Matrices, p: Basis, counts: tuple[int, int]) -> tuple[Span, Span]:
    """Return what B and A are made of; `counts` say of how many matrices."""
    rank = rank_of(shape, p)
    return (
        Span(name, B, p.seed, shape.rows, rank, counts[B]),
        Span(name, A, p.seed, shape.columns, rank, counts[A]),
    )


def coded(x: Chunk, p: Basis) -> Mapping[str, Tensor]:
    """Return the stored tensors of a whole tensor."""
    import torch

    from surgery.math.reduce import squared_norm
    from surgery_delta._checks import checks

    assert x.base is not None
    delta, shape = x.models[0] - x.base, Matrices.in_call(x.signature)
    beta, alpha, check = (part.spec for part in parts(x.signature, p))
    counts = beta.shape[-1], alpha.shape[-1]
    found = [
        fitted(matrix.cpu().double(), *spans(name, shape, p, counts), p.sweeps)
        for name, matrix in zip(
            shape.names(x.signature.name), delta.view(-1, shape.rows, shape.columns), strict=True
        )
    ]
    total = squared_norm(delta.reshape(-1))
    note_energy(x, total - math.fsum(left for _, _, left in found), total)
    return {
        beta.name: torch.stack([one for one, _, _ in found]).view(beta.shape).to(delta),
        alpha.name: torch.stack([one for _, one, _ in found]).view(alpha.shape).to(delta),
        check.name: checks(x.base.reshape(delta.shape[0], -1)),
    }


def fitted(matrix: Tensor, rows: Span, columns: Span, sweeps: int) -> tuple[Tensor, Tensor, float]:
    """Return β and α of a matrix in float64, both factors of one length, and the sum of squares that is left."""
    import torch

    from surgery.math.svd import svd_largest

    rank, whole = rows.rank, float(matrix.square().sum())
    _, S, Vh = svd_largest(matrix, rank, rows.name)
    wanted = Vh[:rank].T * S[:rank].sqrt()
    alpha, _ = columns.nearest(wanted, torch.eye(rank, dtype=torch.float64))
    left = whole
    for _ in range(sweeps):
        right = columns.factor(alpha)
        beta, _ = rows.nearest(matrix @ right, right.T @ right)
        tall = rows.factor(beta)
        alpha, gained = columns.nearest(matrix.T @ tall, tall.T @ tall)
        left = max(whole + gained, 0.0)
    lengths = float(rows.factor(beta).norm()), float(columns.factor(alpha).norm())
    if min(lengths) > 0:
        even = math.sqrt(lengths[1] / lengths[0])
        beta, alpha = beta * even, alpha / even
    return beta, alpha, left


@dataclass(frozen=True, slots=True)
class Coefficients(Added):
    """What delta.basis stores."""

    spec: TensorSpec
    beta: TensorSpec
    alpha: TensorSpec
    shape: Matrices
    p: Basis

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the coefficients of the rows first."""
        return self.beta, self.alpha

    @property
    def held(self) -> int:
        """Return the numbers of A and β."""
        return self.beta.numel + self.shape.count * self.shape.columns * rank_of(self.shape, self.p)

    def begin(self, source: Checkpoint, base: Checkpoint) -> Held:
        """Return A of every matrix, [matrices, rank, in], and β."""
        import torch

        alpha = whole(source, self.alpha).view(self.shape.count, -1)
        made = [self._spans(index)[A].factor(alpha[index]).T for index in range(self.shape.count)]
        beta = whole(source, self.beta).view(self.shape.count, -1)
        return {"A": torch.stack(made).to(torch.float32), "beta": beta}

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change."""
        import torch

        made = []
        for index, begin, end in self.shape.stretches(first, last):
            span = self._spans(index)[B]
            rows = span.rows(begin, end) @ held["beta"][index].double()
            made.append(rows.view(-1, span.rank).to(torch.float32) @ held["A"][index])
        return torch.cat(made).view(last - first, self.spec.row)

    def _spans(self, index: int) -> tuple[Span, Span]:
        name = self.shape.names(self.spec.name)[index]
        return spans(name, self.shape, self.p, (self.beta.shape[-1], self.alpha.shape[-1]))
