"""merge.star: the mean of the deltas, each cut to its leading singular directions first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from surgery.math.ranks import exact_bytes
from surgery.ops import Chunk, Signature, Split, op
from surgery.scalars import Share
from surgery_merge._common import Weighted
from surgery_merge._spectral import (
    Deltas,
    Shape,
    Spectral,
    check,
    leading,
    matrix_bytes,
    mean,
    merged,
    same,
    workspace,
)
from surgery_merge.tsvm import Part, kept

if TYPE_CHECKING:
    from torch import Tensor

Values = Literal["sum", "keep", "flat"]


class Star(Spectral):
    """Parameters of merge.star."""

    share: Share = 0.4
    """Directions are kept up to the one at which this share of the sum of singular values is reached; 1 keeps all."""

    fraction: Part | None = None
    """Keep this share of a matrix's directions instead, whatever their singular values are."""

    values: Values = "sum"
    """The values kept: scaled so that their sum is as before (`sum`, STAR), as they are, or all their mean (`flat`)."""


def _same(signature: Signature, p: Star) -> int | None:
    every = p.share == 1 if p.fraction is None else p.fraction == 1
    return same(signature, p, keeps_one=every and p.values != "flat")


def _workspace(signature: Signature, p: Star) -> int:
    """Return the bytes of the sum, a decomposition, its scaled vectors and the product."""

    def needed(shape: Shape) -> int:
        return exact_bytes(shape) + 3 * matrix_bytes(shape)

    return workspace(signature, p.targets, needed)


@op(
    "merge.star",
    split=Split.TENSOR,
    params=Star,
    each=Weighted,
    base="required",
    simplify=_same,
    check=check,
    workspace=_workspace,
    cite="Lee, Liu, Niu, Liu 2025, STAR: Spectral Truncation and Rescale for Model Merging, arXiv:2502.10339",
)
def star(x: Chunk, p: Star) -> Tensor:
    """Cut each delta to its leading singular directions, rescale it, add the mean: θ0 + λ/T·Σ U_k·Σ'·V_kᵀ.

    Of τ = U·Σ·Vᵀ the first k directions are kept, up to the one at which `share` of Σσ is reached; their values are
    multiplied by Σ_all σ / Σ_kept σ, so that the sum is as before. `values: keep` is truncation alone; `flat` (ours)
    sets what is kept to its mean: with all directions merge.iso_c of one delta. Directions below the numerical rank
    (float32's) are noise and stay out. What is no matrix gets the mean of the deltas. Decomposed in float64, one model
    at a time.
    """
    return merged(x, p, partial(_reshaped, p=p))


def _reshaped(deltas: Deltas, p: Star) -> Tensor:
    import torch

    from surgery.math.polar import numerical_svd

    total = torch.zeros_like(deltas.base, dtype=torch.float64)
    for delta in deltas:
        U, S, Vh = numerical_svd(delta, deltas.epsilon)
        k = leading(S, p.share) if p.fraction is None else kept((U.shape[0], Vh.shape[1]), 1, p.fraction)
        if len(S) and k:
            total.addmm_(U[:, :k] * _made(S[:k], float(S.sum()), p.values), Vh[:k])
        del delta, U, S, Vh
    return total.mul_(mean(deltas))


def _made(S: Tensor, whole: float, values: Values) -> Tensor:
    """Return what becomes of the singular values that are kept; `whole` is the sum of all."""
    import torch

    if values == "flat":
        return torch.full_like(S, float(S.mean()))
    return S * (whole / float(S.sum())) if values == "sum" else S
