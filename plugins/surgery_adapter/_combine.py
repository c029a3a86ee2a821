"""What adapter.merge does to the matrices of several adapters, M_t = w_t·core or w_t·ΔW_t: one matrix of them.

linear     ΣM / Σw                                      tsvm   polar(Û)·Σ̂·polar(V̂)ᵀ of all their directions
magnitude  as linear, of each one's largest entries     iso    σ̄·U·Vᵀ of ΣM = U·Σ·Vᵀ, σ̄ the mean of Σ
ties       as magnitude, of the entries whose sign is that of their sum
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery_adapter._core import EPSILON

if TYPE_CHECKING:
    from torch import Tensor


def linear(cores: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return Σ w·M, divided by Σ w if asked to."""
    import torch

    total = torch.stack([M * w for M, w in zip(cores, weights, strict=True)]).sum(0)
    return total / sum(weights) if normalize else total


def trimmed(core: Tensor, density: float) -> Tensor:
    """Return a matrix with its ⌊density·n⌋ largest entries, at least one; those that equal the last stay too.

    Entries are compared as float32.
    """
    import torch

    from surgery.math.select import keep, kth_largest

    kept = max(1, int(density * core.numel()))
    return core if kept >= core.numel() else torch.where(keep(core, kth_largest(core, kept)), core, 0.0)


def ties(cores: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return the sum of the entries whose sign is that of Σ w·M, 0 counting as plus; or their weighted mean.

    Yadav et al. 2023, arXiv:2306.01708, algorithm 1; the matrices are trimmed already.
    """
    import torch

    stacked = torch.stack([M * w for M, w in zip(cores, weights, strict=True)])
    sign = torch.where(stacked.sum(0) < 0, -1.0, 1.0).to(stacked.dtype)
    agree = stacked.sign() == sign
    total = torch.where(agree, stacked, 0.0).sum(0)
    if not normalize:
        return total
    shares = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device).abs().view(-1, 1, 1)
    divisor = (agree * shares).sum(0)
    return total / torch.where(divisor == 0, 1.0, divisor)


def tsvm(cores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the leading directions of each matrix, made orthogonal to each other.

    Gargiulo et al. 2025, arXiv:2412.00081, algorithm 1, with each adapter's own rank in the place of a share of all
    directions: more than that it has not.
    """
    import torch

    from surgery.math.polar import numerical_svd, polar

    found = [numerical_svd(M * w, EPSILON) for M, w in zip(cores, weights, strict=True)]
    left, right = torch.cat([U for U, _, _ in found], 1), torch.cat([Vh for _, _, Vh in found])
    return (polar(left, EPSILON) * torch.cat([S for _, S, _ in found])) @ polar(right, EPSILON)


def iso(cores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sum with all its singular values made equal to their mean.

    Marczak et al. 2025, arXiv:2502.04959, algorithm 1; the mean is over values above rounding.
    """
    from surgery.math.polar import numerical_svd

    U, S, Vh = numerical_svd(linear(cores, weights, normalize=False), EPSILON)
    return (U @ Vh) * (float(S.mean()) if len(S) else 0.0)
