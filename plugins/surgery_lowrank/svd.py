"""lowrank.svd: the nearest matrices of a lower rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.math.ranks import exact_bytes, randomized_bytes
from surgery.notes import note_energy
from surgery.ops import Chunk, Signature, Split, op
from surgery.targets import is_stack, matrix_shape
from surgery_lowrank._rank import Rank, check, exact, known_rank, untouched, worth

if TYPE_CHECKING:
    from torch import Tensor

_DOUBLE = 8


class Svd(Rank):
    """Parameters of lowrank.svd."""


def _same(signature: Signature, p: Svd) -> int | None:
    return 0 if untouched(signature, p) else None


def _workspace(signature: Signature, p: Svd) -> int:
    """Return what one matrix takes: its decomposition, and the product in float64 with one more factor."""
    shape = matrix_shape(signature)
    rank = known_rank(signature, p)
    found = exact_bytes(shape) if exact(shape, p) else randomized_bytes(shape, rank or 1)
    wide = _DOUBLE * (shape[0] * shape[1] + shape[0] * (rank or min(shape)))
    return found + wide


@op(
    "lowrank.svd",
    split=Split.TENSOR,
    params=Svd,
    models=1,
    simplify=_same,
    check=check,
    vectors="skip",
    workspace=_workspace,
    note="what a rank leaves is written as dense weights: no file gets smaller and no model faster by itself",
    cite=(
        "Eckart, Young 1936, The approximation of one matrix by another of lower rank; Halko, Martinsson, Tropp 2011, "
        "Finding structure with randomness, arXiv:0909.4061 (the randomized method)"
    ),
)
def svd(x: Chunk, p: Svd) -> Tensor:
    """Replace matrices by their nearest of lower rank: U_r Σ_r V_rᵀ.

    No matrix of that rank is nearer in the Frobenius or spectral norm; the error is the root of the dropped Σσ². A
    convolution [out, in, kh, kw] is seen as [out, in·kh·kw], a stack of experts as its matrices. A rank that saves
    nothing leaves the matrix as it is. Computed and multiplied out in float64; randomized products in float32. The
    random test matrix depends on the tensor's name and shape alone. The report tells of every tensor the `energy` kept,
    the share of its sum of squares, and the `rank`, of a stack the highest.
    """
    import torch

    from surgery.math.reduce import squared_norm

    weights = x.models[0]
    shape = matrix_shape(x.signature)
    matrices = weights.reshape(-1, *shape)
    result = torch.empty_like(weights)
    names = [x.signature.name]
    if is_stack(x.signature):
        names = [f"{x.signature.name}[{index}]" for index in range(len(matrices))]
    ranks, energies = [], []
    for name, matrix, out in zip(names, matrices, result.view(-1, *shape), strict=True):
        reduced, rank, energy = _reduced(matrix, name, known_rank(x.signature, p), p)
        out.copy_(reduced)
        ranks.append(rank)
        energies.append(squared_norm(matrix.reshape(-1)) if energy is None else energy)
    x.note("rank", max(ranks))
    note_energy(x, math.fsum(energies), squared_norm(weights.reshape(-1)))
    return result


def _reduced(W: Tensor, name: str, rank: int | None, p: Svd) -> tuple[Tensor, int, float | None]:
    """Return a matrix's best approximation, its rank and Σσ²; the matrix and no Σσ² where a rank saves nothing."""
    from surgery.math.svd import rank_for_energy, sketch_draws, svd_exact, svd_randomized

    shape = (W.shape[0], W.shape[1])
    if exact(shape, p):
        U, S, Vh = svd_exact(W)
    else:
        assert rank is not None
        U, S, Vh = svd_randomized(W, rank, sketch_draws(name, shape, rank, W.device))
    if p.energy is not None:
        rank = rank_for_energy(S, p.energy)
        if not worth(shape, rank, p):
            return W, min(shape), None
    kept = S[:rank]
    return (U[:, :rank] * kept) @ Vh[:rank], len(kept), float(kept.square().sum())
