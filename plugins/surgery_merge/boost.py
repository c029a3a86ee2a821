"""merge.boost: the sum of the deltas, its weak singular directions raised."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

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
    merged,
    same,
    workspace,
)

if TYPE_CHECKING:
    from torch import Tensor


class Boost(Spectral):
    """Parameters of merge.boost."""

    share: Share = 0.01
    """Singular values are raised to the one at which this share of their sum is reached; 0 makes all the largest."""


def _workspace(signature: Signature, p: Boost) -> int:
    """Return the bytes of the sum, its decomposition, the scaled vectors and the product."""

    def needed(shape: Shape) -> int:
        return exact_bytes(shape) + matrix_bytes(shape)

    return workspace(signature, p.targets, needed)


@op(
    "merge.boost",
    split=Split.TENSOR,
    params=Boost,
    each=Weighted,
    base="required",
    simplify=partial(same, keeps_one=False),
    check=check,
    workspace=_workspace,
    cite="Skorobogat, Roth, Georgescu, Akata 2025, Subspace-Boosted Model Merging, arXiv:2506.16506",
)
def boost(x: Chunk, p: Boost) -> Tensor:
    """Add the deltas and raise the sum's weak directions: θ0 + λ·U·max(Σ, σ_k)·Vᵀ.

    With singular values from the largest, σ_k is the first at which `share` of their sum is reached. Directions below
    the numerical rank (float32's) are noise and stay out. With one model, such as the result of another merge, it is
    that model's delta that is boosted. What is no matrix gets the sum of the deltas. Decomposed in float64.
    """
    return merged(x, p, partial(_boosted, share=p.share), rest=lambda deltas: 1.0)


def _boosted(deltas: Deltas, share: float) -> Tensor:
    from surgery.math.polar import numerical_svd

    U, S, Vh = numerical_svd(deltas.total(), deltas.epsilon)
    if not len(S):
        return U @ Vh
    floor = float(S[max(leading(S, share), 1) - 1])
    return (U * S.clamp(min=floor)) @ Vh
