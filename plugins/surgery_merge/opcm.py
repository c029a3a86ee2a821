"""merge.opcm: deltas added one after the other, each without what it would overwrite of those before."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from surgery.math.ranks import exact_bytes
from surgery.ops import Chunk, Signature, Split, op
from surgery.scalars import Share
from surgery_merge._common import Weighted
from surgery_merge._spectral import (
    Deltas,
    Shape,
    Spectral,
    check,
    matrix_bytes,
    merged,
    same,
    workspace,
)

if TYPE_CHECKING:
    from torch import Tensor

_SLACK: Final = 1e-12  # 3/6 of 6 is 3, though floats may say a little less

Rescale = Literal["tensor", "none"]


class Opcm(Spectral):
    """Parameters of merge.opcm."""

    alpha: Share = 0.5
    """Share of the merged delta's singular values, from the largest, whose directions no later delta may touch."""

    rescale: Rescale = "tensor"
    """Bring the norm of each tensor's merged delta to the mean of the models' (the paper: of the whole model's)."""


def _workspace(signature: Signature, p: Opcm) -> int:
    """Return the bytes of the merged delta, its decomposition and the next delta; less is held while they are used."""

    def needed(shape: Shape) -> int:
        return exact_bytes(shape) + matrix_bytes(shape)

    return workspace(signature, p.targets, needed)


@op(
    "merge.opcm",
    split=Split.TENSOR,
    params=Opcm,
    each=Weighted,
    base="required",
    ordered=True,
    simplify=partial(same, keeps_one=True),
    check=check,
    workspace=_workspace,
    cite="Tang et al. 2025, Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual "
    "Model Merging, arXiv:2501.09522",
)
def opcm(x: Chunk, p: Opcm) -> Tensor:
    """Add deltas in the models' order, each projected away from those before: M ← M + τ - U·(m ⊙ UᵀτV)·Vᵀ.

    U·Σ·Vᵀ is what was merged so far. The mask m covers the diagonal, and the rows and columns of the leading singular
    values that hold no more than the share `alpha` of their sum; directions below the numerical rank (float32's) are
    none. The result is θ0 + λ·M·mean‖τ‖/‖M‖ (Frobenius norms), or θ0 + λ·M with `rescale: none`, which the next
    model can be merged into later: the models' order matters, how they are divided among runs does not. The paper's
    norms are those of the whole model: `rescale: none` here, then merge.renorm with `scope: model` on the result and
    the models. What is no matrix gets the sum of the deltas, rescaled alike. Decomposed in float64.
    """
    return merged(x, p, partial(_one_by_one, p=p), rest=lambda deltas: _factor(deltas, p.rescale))


def _one_by_one(deltas: Deltas, p: Opcm) -> Tensor:
    M = deltas.of(0)
    norms = [float(M.norm())]
    for index in range(1, len(deltas)):
        delta = deltas.of(index)
        norms.append(float(delta.norm()))
        M += _projected(delta, M, deltas.epsilon, p.alpha)
        del delta
    return M if p.rescale == "none" else M.mul_(_ratio(norms, float(M.norm())))


def _projected(delta: Tensor, M: Tensor, epsilon: float, alpha: float) -> Tensor:
    """Return a delta without what it shares with the directions of M, written over the delta."""
    from surgery.math.polar import numerical_svd

    U, S, Vh = numerical_svd(M, epsilon)
    shared = U.T @ delta @ Vh.T
    untouched = int((S.cumsum(0) <= alpha * float(S.sum()) * (1 + _SLACK)).sum())
    diagonal = shared.diagonal().clone()
    shared[untouched:] = 0
    shared[:, untouched:] = 0
    shared.diagonal().copy_(diagonal)
    return delta.sub_(U @ (shared @ Vh))


def _factor(deltas: Deltas, rescale: Rescale) -> float:
    """Return what Στ of a tensor that is no matrix is multiplied with."""
    from surgery.math.reduce import exact_sum, squared_norm

    if rescale == "none":
        return 1.0
    squares: list[list[float]] = [[] for _ in range(len(deltas) + 1)]
    for _, piece in deltas.pieces():
        for index in range(len(deltas)):
            squares[index].append(squared_norm(piece.of(index)))
        squares[-1].append(squared_norm(piece.total()))
    *norms, total = (math.sqrt(exact_sum(parts)) for parts in squares)
    return _ratio(norms, total)


def _ratio(norms: list[float], total: float) -> float:
    """Return mean‖τ‖/‖M‖; 1 where deltas cancelled."""
    return math.fsum(norms) / len(norms) / total if total else 1.0
