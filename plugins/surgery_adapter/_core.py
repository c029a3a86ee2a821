"""Adapters in their common core: small square matrices that stand for changes of low rank.

    U [out, k] and V [in, k'] are orthonormal bases of all columns of the B_t and all rows of the A_t
    M_t = Uᵀ·B_t·A_t·V          ΔW_t = U·M_t·Vᵀ, without loss          k, k' <= Σ r_t

What is done to the M_t and does not depend on the basis (sums, singular values) is done to the ΔW_t. All in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery_adapter._factors import factors, filled

if TYPE_CHECKING:
    from torch import Tensor


# Numbers are those of float32 files: directions below this share of the largest are rounding.
EPSILON: Final = 2.0**-23


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """The bases and each adapter's core [k, k']."""

    U: Tensor
    V: Tensor
    cores: list[Tensor]


def core_of(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> Core:
    """Return the common core of adapters with factors A_t [r_t, in] and B_t [out, r_t]."""
    import torch

    As, Bs = [A.double() for A in As], [B.double() for B in Bs]
    U, V = torch.linalg.qr(torch.cat(Bs, 1)).Q, torch.linalg.qr(torch.cat([A.T for A in As], 1)).Q
    return Core(U, V, [(U.T @ B) @ (A @ V) for A, B in zip(As, Bs, strict=True)])


def balanced(core: Tensor, U: Tensor, V: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank] of the change U·core·Vᵀ cut to its largest singular values.

    Each factor gets their roots. Where the matrix has fewer of them, zeros are added.
    """
    from surgery.math.svd import svd_exact

    left, S, right = svd_exact(core)
    root = S[:rank].sqrt()
    return filled((root[:, None] * right[:rank]) @ V.T, (U @ left[:, :rank]) * root, rank)


def knots_of(As: Sequence[Tensor], Bs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return U [out, k] of [ΔW_1 … ΔW_T] = U·[Z_1 … Z_T], and the Z_t [k, in]: singular values times right vectors.

    Stoica et al. 2024, KnOTS, arXiv:2410.19735. Singular values below max(R,C)·ε of the largest are left out, ε that of
    float32 files; no ΔW_t is made.
    """
    import torch

    from surgery.math.polar import numerical_svd

    As, Bs = [A.double() for A in As], [B.double() for B in Bs]
    Q = torch.linalg.qr(torch.cat(Bs, 1)).Q
    parts = [(Q.T @ B) @ A for A, B in zip(As, Bs, strict=True)]
    P, _, _ = numerical_svd(torch.cat(parts, 1), EPSILON)
    return Q @ P, [P.T @ part for part in parts]


def balanced_rows(rows: Tensor, U: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of U·rows, `rows` [k, in], cut as `balanced` cuts them."""
    import torch

    V, R = torch.linalg.qr(rows.T)
    return balanced(R.T, U, V, rank)


def cut(whole: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank] of a whole change [out, in], cut as `balanced` cuts it."""
    A, B = factors(whole, min(rank, *whole.shape), "adapter.merge")
    return filled(A, B, rank)
