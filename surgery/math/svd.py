"""Singular values and vectors: all of a matrix's, or the largest few of a large one.

    W [R,C] = U [R,k] · diag(S) · Vh [k,C]        k = min(R,C), or the rank asked for

Singular vectors come with a sign of their own; it is fixed here: in every column of U the number of largest
magnitude, the first of several, is positive. Results are float64. They are the same bytes for the same bytes given
on one machine and one thread (torch's, inside the engine's workers); LAPACK is free to differ between machines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgery.math.random import stream_key, uniform
from surgery.math.ranks import (
    POWER_PASSES,
    draws_needed,
    is_small,
    rank_for_ratio,
    saves,
    sketch_width,
)

__all__ = [
    "numerical_rank",
    "rank_for_energy",
    "rank_for_ratio",
    "saves",
    "sketch_draws",
    "svd_exact",
    "svd_largest",
    "svd_randomized",
]

# Sums of squares are compared up to this share: 13/14 of 14 is 13, though floats say a little more.
_SLACK = 1e-12

Factors = tuple[Tensor, Tensor, Tensor]


def svd_exact(W: Tensor) -> Factors:
    """Return U [R,k], S [k] falling, Vh [k,C] of a matrix of floats, computed in float64 by LAPACK (gesdd).

    Measured on one busy core of 2.5 GHz: 0.8 s for 1,024 × 1,024, 6 s for 2,048 × 2,048.
    """
    return _signed(*_lapack(W.to(torch.float64)))


def svd_randomized(W: Tensor, rank: int, draws: Tensor) -> Factors:
    """Return the largest `rank` singular values of a matrix and their vectors, nearly: U [R,r], S [r], Vh [r,C].

    `draws` are uniform numbers in [0, 1), at least `draws_needed(W.shape, rank)`, of any shape; moved to [-½, ½)
    they are the test matrix Ω [C, r+8]. Its products with W are made in the dtype of W, the small decomposition in
    float64. Two power passes, each orthogonalised. Raises ValueError when the rank or the number of draws is off.

    Halko, Martinsson, Tropp 2011, Finding structure with randomness, algorithms 4.4 and 5.1 (symmetric uniform
    numbers in the place of normal ones). A matrix of exactly this rank is recovered to rounding; otherwise the error
    is that of the best approximation times a factor near 1 where singular values fall slowly.
    """
    rows, columns = W.shape
    if not 0 <= rank <= min(rows, columns):
        raise ValueError(f"svd_randomized: rank must be 0 to {min(rows, columns)}, got {rank}")
    needed, width = draws_needed(W.shape, rank), sketch_width(W.shape, rank)
    if draws.numel() < needed:
        raise ValueError(f"svd_randomized: needs {needed} draws, got {draws.numel()}")
    test = draws.reshape(-1)[:needed].view(columns, width).to(W.dtype) - 0.5
    Q = _orthonormal(W @ test)
    for _ in range(POWER_PASSES):
        Q = _orthonormal(W @ _orthonormal(W.T @ Q))
    small, S, Vh = _lapack((Q.T @ W).to(torch.float64))
    return _signed((Q.to(torch.float64) @ small)[:, :rank], S[:rank], Vh[:rank])


def svd_largest(W: Tensor, rank: int, name: str) -> Factors:
    """Return at least `rank` largest singular values and their vectors; all there are of a matrix that is small.

    A matrix of up to 1,024 rows or columns is decomposed exactly, a larger one by the randomized method, whose test
    matrix depends on `name`, the shape and the rank alone.
    """
    shape = (W.shape[0], W.shape[1])
    if is_small(shape):
        return svd_exact(W)
    return svd_randomized(W, rank, sketch_draws(name, shape, rank, W.device))


def sketch_draws(name: str, shape: tuple[int, int], rank: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the draws for `svd_randomized`: float32, a function of the matrix's name, its shape and the rank alone.

    A recipe's seed has no part in it: what is sought is not random, and no draw is better than another.
    """
    key = stream_key(0, "math.svd_randomized", name, 0)
    return uniform(key, 0, torch.empty(draws_needed(shape, rank), device=device))


def rank_for_energy(S: Tensor, energy: float) -> int:
    """Return the smallest r with Σ_{i≤r} σ² ≥ energy·Σσ², up to 1e-12 of the sum; 0 for a zero matrix.

    `S` holds all singular values, largest first.
    """
    squares = S.to(torch.float64).square()
    sums = squares.cumsum(0)
    if not len(sums) or sums[-1] == 0:
        return 0
    wanted = energy * float(sums[-1]) * (1 - _SLACK)
    return min(int(torch.searchsorted(sums, wanted)) + 1, len(sums)) if wanted > 0 else 0


def numerical_rank(S: Tensor, shape: tuple[int, int], epsilon: float) -> int:
    """Return how many singular values exceed max(R,C)·ε·σ1; ε is that of the dtype the matrix was stored in."""
    return int(torch.gt(S, max(shape) * epsilon * S[0]).sum()) if len(S) else 0


def _lapack(W: Tensor) -> Factors:
    """Return the decomposition; of a wide matrix by its transpose, which takes a third of the time."""
    if W.shape[0] >= W.shape[1]:
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        return U, S, Vh
    V, S, Uh = torch.linalg.svd(W.T, full_matrices=False)
    return Uh.T, S, V.T


def _orthonormal(X: Tensor) -> Tensor:
    Q: Tensor = torch.linalg.qr(X)[0]
    return Q


def _signed(U: Tensor, S: Tensor, Vh: Tensor) -> Factors:
    """Turn singular vectors in pairs so that the largest of every column of U is positive."""
    if U.numel() == 0:
        return U, S, Vh
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(U.dtype)
    return U * signs, S, Vh * signs.T
