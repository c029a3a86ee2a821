"""A change of a matrix as a product of two thin ones: ΔW ≈ B·A with B = U_r·Σ_r^½ and A = Σ_r^½·V_rᵀ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from surgery.math.ranks import largest_bytes

# Sums of squares are compared up to this share: 13/14 of 14 is 13, though floats say a little more.
_SLACK: Final = 1e-12

if TYPE_CHECKING:
    from torch import Tensor


def factors(delta: Tensor, rank: int, name: str, energy: float | None = None) -> tuple[Tensor, Tensor]:
    """Return A [rank, in] and B [out, rank] in float32, whose product is the nearest to `delta` [out, in] of its rank.

    Decomposed in float64, up to 1,024 rows or columns exactly, beyond by the randomized method, whose test matrix
    depends on `name` and the shape alone. The root of the singular values goes to both sides, so that neither
    overflows where the other underflows. A change of zero gives zeros. With `energy` only as many directions are kept
    as have that share of Σσ² together, and zeros stand in the place of the others.
    """
    return divided(*directions(delta, rank, name, energy))


def divided(U: Tensor, S: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B in float32 of a decomposition, the root of the singular values in both."""
    import torch

    root = S.sqrt()
    A, B = root[:, None] * Vh, U * root
    return A.to(torch.float32), B.to(torch.float32)


def directions(
    delta: Tensor, rank: int, name: str, energy: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, rank], S [rank], Vh [rank, in] of `factors` in float64: those not kept have a σ of 0."""
    from surgery.math.svd import svd_largest

    U, S, Vh = svd_largest(delta, rank, name)
    S = S[:rank].clone()
    if energy is not None:
        S[_needed(S, delta, energy) :] = 0
    return U[:, :rank], S, Vh[:rank]


def _needed(S: Tensor, delta: Tensor, energy: float) -> int:
    """Return how many of the largest singular values have a share of the sum of squares of all, which is ‖ΔW‖²."""
    import torch

    wanted = energy * float(delta.double().square().sum()) * (1 - _SLACK)
    return int(torch.searchsorted(S.square().cumsum(0), wanted)) + 1 if wanted > 0 else 0


def factor_bytes(shape: tuple[int, int], rank: int) -> int:
    """Return the temporaries of `factors` in bytes: the change, its decomposition, both factors in two precisions."""
    rows, columns = shape
    return 8 * rows * columns + largest_bytes(shape, rank) + 12 * rank * (rows + columns)


def filled(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors of a larger rank: what they lack is zeros, which change no product."""
    import torch

    short = rank - len(A)
    return torch.nn.functional.pad(A, (0, 0, 0, short)), torch.nn.functional.pad(B, (0, short))
