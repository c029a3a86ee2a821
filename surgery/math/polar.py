"""The polar factor of a matrix, and singular values, on the directions that are more than rounding noise.

M [R,C] = U [R,r] · diag(S) · Vh [r,C]        polar(M) = U · Vh        r: the numerical rank

The polar factor is the nearest matrix whose singular values are all 1. Of a matrix of low rank it is unique on the
row and column space only: a full decomposition adds directions that nothing in M points to, each as strong as those
of M. Here they are left out.

Singular values come from the eigenvalues σ² of the smaller Gram matrix where none that is kept lies below σ1/10,000:
squaring costs them 8 of float64's 16 digits at most then, and takes a half (square) to a quarter (1 : 2) of the time.
Otherwise LAPACK's decomposition is used. All in float64; on one thread the same bytes for the same bytes.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from surgery.math.svd import Factors, numerical_rank, svd_exact

_WELL_ABOVE: Final = 1e-4  # of σ1


def numerical_svd(M: Tensor, epsilon: float | None, most: int | None = None) -> Factors:
    """Return U [R,r], S [r] falling, Vh [r,C]: the singular values above max(R,C)·ε·σ1, and their vectors.

    `epsilon` is the rounding unit of the numbers that M was made of; None keeps all min(R,C) directions. No more than
    `most` are returned if that is given. The rank of a zero matrix is 0. Results are float64; vectors may have either
    sign.
    """
    found = _from_gram(M.to(torch.float64), epsilon, most)
    if found is not None:
        return found
    U, S, Vh = svd_exact(M)
    rank = _kept(S, M, epsilon, most)
    return U[:, :rank], S[:rank], Vh[:rank]


def polar(M: Tensor, epsilon: float | None) -> Tensor:
    """Return U·Vh [R,C] in float64, of the directions that `numerical_svd` keeps.

    Higham 1986, Computing the polar decomposition; polar(diag(3, -2)) = diag(1, -1).
    """
    U, _, Vh = numerical_svd(M, epsilon)
    return U @ Vh


def _from_gram(M: Tensor, epsilon: float | None, most: int | None) -> Factors | None:
    """Return the factors by way of MᵀM or MMᵀ; None if that would cost too many digits."""
    if M.shape[0] < M.shape[1]:
        found = _from_gram(M.T, epsilon, most)
        return None if found is None else (found[2].T, found[1], found[0].T)
    squares, vectors = torch.linalg.eigh(M.T @ M)
    S = squares.flip(0).clamp_(min=0).sqrt_()
    rank = _kept(S, M, epsilon, most)
    if rank and not float(S[rank - 1]) > _WELL_ABOVE * float(S[0]):
        return None
    V = vectors.flip(1)[:, :rank].contiguous()
    return (M @ V).div_(S[:rank]), S[:rank], V.T


def _kept(S: Tensor, M: Tensor, epsilon: float | None, most: int | None) -> int:
    rank = len(S) if epsilon is None else numerical_rank(S, (M.shape[0], M.shape[1]), epsilon)
    return rank if most is None else min(rank, most)
