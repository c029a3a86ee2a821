"""Factors that training begins from: a part of the weight itself, which is then taken out of the base.

    s·B·A + W_res = W        W [out, in], A [r, in], B [out, r]: the model computes what it did

svd      U_r·Σ_r·V_rᵀ                                    qr     Q_r·R_r of W = Q·R
nystrom  W[:,J]·pinv(W[I,J])·W[I,:]                      ldu    P·L_r·D_r·U_r of W = P·L·D·U

All in float64. A direction that the matrix does not have begins as LoRA's do: B is 0, A is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from surgery_adapter._factors import factors, filled

if TYPE_CHECKING:
    from torch import Tensor

Pivots = Literal["leading", "norm"]
Pair = tuple["Tensor", "Tensor"]
Draws = Callable[[int], "Tensor"]


def svd(W: Tensor, rank: int, name: str) -> Pair:
    """Return the largest directions, the roots of their singular values in both factors.

    Meng et al. 2024, PiSSA, arXiv:2404.02948.
    """
    A, B = factors(W, rank, name)
    return A.double(), B.double()


def qr(W: Tensor, rank: int) -> Pair:
    """Return the first columns of Q and rows of R: R_r = Q_rᵀ·W needs the first columns of W alone.

    Büyükakyüz 2024, OLoRA, arXiv:2406.01775.
    """
    import torch

    Q = torch.linalg.qr(W[:, :rank].double()).Q
    return Q.T @ W.double(), Q


def nystrom(W: Tensor, rank: int, pivots: Pivots, tol: float) -> Pair:
    """Return W from `rank` of its rows I and columns J, the roots of the block's singular values in both factors.

    NLoRA's three factors with the middle one divided between the others. The block's singular values below `tol` of the
    largest are left out: their inverses would make products much larger than W, which float32 then has to take apart.

    Guo et al. 2025, NLoRA, arXiv:2502.14482.
    """
    import torch

    from surgery.math.svd import svd_exact

    W = W.double()
    rows, columns = (_pivots(W, rank, along, pivots) for along in (1, 0))
    U, S, Vh = svd_exact(W[rows][:, columns])
    kept = int(torch.gt(S, tol * S[0]).sum())
    root = S[:kept].rsqrt()
    A, B = root[:, None] * (U[:, :kept].T @ W[rows]), (W[:, columns] @ Vh[:kept].T) * root
    return filled(A, B, rank)


def ldu(W: Tensor, rank: int, tol: float) -> Pair:
    """Return the first steps of Gaussian elimination with row pivots, the roots of |D| in both factors.

    A pivot below `tol` of the largest ends it. Shi et al. 2024, LoLDU, arXiv:2410.13618.
    """
    import torch

    rest = W.to(torch.float64, copy=True)
    A, B = rest.new_zeros(rank, rest.shape[1]), rest.new_zeros(len(rest), rank)
    largest = 0.0
    for step in range(rank):
        row = int(rest[:, step].abs().argmax())
        pivot = float(rest[row, step])
        largest = max(largest, abs(pivot))
        if pivot == 0 or abs(pivot) < tol * largest:
            break
        root = math.sqrt(abs(pivot))
        A[step] = rest[row] / root
        B[:, step] = rest[:, step] / math.copysign(root, pivot)
        torch.addr(rest, B[:, step], A[step], alpha=-1, out=rest)
        rest[row], rest[:, step] = 0.0, 0.0  # exactly, whatever the rounding
    return A, B


def fresh(A: Tensor, B: Tensor, draws: Draws) -> Pair:
    """Return factors in which every direction that is 0 can be trained: rows of A are then U(-1/√in, 1/√in).

    As peft draws them (Kaiming's uniform with a = √5). `draws` gives that many uniform numbers in [0, 1).
    """
    import torch

    empty = ((B == 0).all(0) & (A == 0).all(1)).unsqueeze(1)
    if not bool(empty.any()):
        return A, B
    drawn = (2 * draws(A.numel()).view(A.shape).double() - 1) / math.sqrt(A.shape[1])
    return torch.where(empty, drawn, A), B


def normal_columns(B: Tensor, draws: Callable[[int, int], Tensor]) -> Tensor:
    """Return numbers of N(0, 1) in the shape of B, as peft begins an embedding's. `draws` gives (count, stream)."""
    from surgery.math.random import normal

    first, second = (draws(B.numel(), stream).double() for stream in (0, 1))
    return normal(first, second).view(B.shape)


def _pivots(W: Tensor, rank: int, along: int, pivots: Pivots) -> Tensor:
    import torch

    if pivots == "leading":
        return torch.arange(rank, device=W.device)
    order = torch.sort(torch.linalg.vector_norm(W, dim=along), descending=True, stable=True).indices
    return order[:rank].sort().values
