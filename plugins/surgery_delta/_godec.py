"""Changes as U·V + S: what delta.lowrank_sparse fits, stores and reads back. Imports torch where it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from surgery.checkpoint.base import Checkpoint
from surgery.notes import note_energy
from surgery.ops import Chunk
from surgery.tensors import TensorSpec
from surgery_delta._codec import Added, Entries, Held, floats, whole
from surgery_delta._matrices import Matrices
from surgery_delta.lowrank_sparse import LowrankSparse, parts, rank_of
from surgery_delta.sparse import counts

if TYPE_CHECKING:
    from torch import Tensor


class Fit(NamedTuple):
    """U [R, r] with orthonormal columns, V [r, C], where S has numbers, which, and the sum of squares that is left."""

    U: Tensor
    V: Tensor
    places: Tensor
    entries: Tensor
    left: float


def coded(x: Chunk, p: LowrankSparse) -> Mapping[str, Tensor]:
    """Return the stored tensors of a whole tensor."""
    import torch

    from surgery.math.reduce import squared_norm
    from surgery_delta._checks import checks
    from surgery_delta._entries import as_entries

    assert x.base is not None
    name, delta, shape = x.signature.name, x.models[0] - x.base, Matrices.in_call(x.signature)
    count, rank = counts(x.signature, p.density)[1], rank_of(shape, p)
    fits, lefts, rights, most = [], [], [], 0
    matrices = delta.view(-1, shape.rows, shape.columns)
    for called, matrix in zip(shape.names(name), matrices, strict=True):
        fit, steps = fitted(matrix.double(), rank, count, p, called)
        tall, wide = _balanced(fit)
        fits.append(fit)
        lefts.append(tall.to(delta.dtype))
        rights.append(wide.to(delta.dtype))
        most = max(most, steps)
    total = squared_norm(delta.reshape(-1))
    note_energy(x, total - math.fsum(fit.left for fit in fits), total)
    x.note("steps", most)
    left, right, *entries, check = parts(x.signature, p)
    places = torch.cat([fit.places + at * shape.rows * shape.columns for at, fit in enumerate(fits)])
    kept = torch.cat([fit.entries for fit in fits]).to(delta.dtype)
    return {
        left.spec.name: torch.stack(lefts).view(left.spec.shape),
        right.spec.name: torch.stack(rights).view(right.spec.shape),
        **as_entries(kept, places, x.signature.first, entries),
        check.spec.name: checks(x.base.reshape(delta.shape[0], -1)),
    }


def fitted(matrix: Tensor, rank: int, count: int, p: LowrankSparse, name: str) -> tuple[Fit, int]:
    """Return the fit of a matrix in float64, and how many steps it took."""
    from surgery_delta._entries import largest

    whole, flat = float(matrix.square().sum()), matrix.reshape(-1)
    without = matrix.clone()
    without.view(-1)[largest(flat.float(), count)] = 0
    fit = min(
        (_begun(matrix, part, rank, count, name) for part in (matrix, without)), key=lambda one: one.left
    )
    for step in range(p.max_iter):
        # where S has numbers τ - S is U·V: what was fitted there before
        rest = matrix.clone()
        rest.view(-1)[fit.places] -= fit.entries
        U = _orthonormal(rest @ fit.V.T)
        nearer = _with_entries(matrix, U, U.T @ rest, count)
        if not nearer.left < fit.left:
            return fit, step
        fell, fit = fit.left - nearer.left, nearer
        if fell <= p.tol * whole:
            return fit, step + 1
    return fit, p.max_iter


def _begun(matrix: Tensor, part: Tensor, rank: int, count: int, name: str) -> Fit:
    """Return the fit that begins with the directions of `part`."""
    from surgery.math.svd import svd_largest

    U, S, Vh = svd_largest(part, rank, name)
    return _with_entries(matrix, U[:, :rank], S[:rank, None] * Vh[:rank], count)


def _with_entries(matrix: Tensor, U: Tensor, V: Tensor, count: int) -> Fit:
    """Return U and V with the entries that they leave largest."""
    from surgery_delta._entries import largest

    left = (matrix - U @ V).view(-1)
    places = largest(left.float(), count)
    entries = left[places]
    left[places] = 0
    return Fit(U, V, places, entries, float(left.square().sum()))


def _orthonormal(X: Tensor) -> Tensor:
    import torch

    Q: Tensor = torch.linalg.qr(X)[0]
    return Q


def _balanced(fit: Fit) -> tuple[Tensor, Tensor]:
    """Return the two factors of U·V, of one length along each direction."""
    from surgery.math.svd import svd_exact

    P, S, Q = svd_exact(fit.V)
    root = S.sqrt()
    return fit.U @ (P * root), root[:, None] * Q


@dataclass(frozen=True, slots=True)
class Sum(Added):
    """What delta.lowrank_sparse stores."""

    spec: TensorSpec
    left: TensorSpec
    right: TensorSpec
    entries: Entries
    shape: Matrices

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the factor of the rows first."""
        return self.left, self.right, *self.entries.parts

    @property
    def held(self) -> int:
        """Return the numbers of the factor that every row needs."""
        return self.right.numel

    def begin(self, source: Checkpoint, base: Checkpoint) -> Held:
        """Return the factor that every row needs."""
        return {"right": whole(source, self.right).view(-1, *self.right.shape[-2:])}

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change."""
        import torch

        rank, made = self.right.shape[-2], []
        for index, begin, end in self.shape.stretches(first, last):
            at = index * self.shape.rows
            made.append(floats(source, self.left, at + begin, at + end, rank) @ held["right"][index])
        low = torch.cat(made).view(last - first, self.spec.row)
        return low.add_(self.entries.decode(source, first, last, held))
