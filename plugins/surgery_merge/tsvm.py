"""merge.tsvm: the leading singular directions of every delta, made orthogonal to each other."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from surgery.math.ranks import exact_bytes, polar_bytes
from surgery.ops import Chunk, Signature, Split, op
from surgery.scalars import Schedulable
from surgery_merge._common import Weighted
from surgery_merge._spectral import (
    Deltas,
    Shape,
    Spectral,
    check,
    count,
    matrix_bytes,
    merged,
    same,
    workspace,
)

if TYPE_CHECKING:
    from torch import Tensor

_DOUBLE: Final = 8

Part = Annotated[float, Schedulable(gt=0, le=1)]


class Tsvm(Spectral):
    """Parameters of merge.tsvm."""

    fraction: Part | None = None
    """Share of a matrix's singular directions that each model brings in; 1/T for T models if left out."""


def kept(shape: Shape, models: int, fraction: float | None) -> int:
    """Return how many directions each model brings in: max(1, ⌊min(R,C)/T⌋), or ⌊fraction·min(R,C)⌋.

    `fraction` is taken as the decimal that was written: 0.29 of 100 is 29, though the float is below it.
    """
    share = Fraction(1, models) if fraction is None else Fraction(repr(float(fraction)))
    return max(1, math.floor(share * min(shape)))


def _same(signature: Signature, p: Tsvm) -> int | None:
    return same(signature, p, keeps_one=p.fraction in (None, 1))


def _workspace(signature: Signature, p: Tsvm) -> int:
    """Return the bytes of all models' directions and of the largest step: a decomposition, or the product."""
    models = count(signature) or 1

    def needed(shape: Shape) -> int:
        rows, columns = shape
        width = models * min(kept(shape, models, p.fraction), *shape)
        directions = _DOUBLE * width * (rows + columns)
        steps = (
            directions,
            exact_bytes(shape),
            polar_bytes((rows, width)),
            polar_bytes((width, columns)),
            matrix_bytes(shape) + matrix_bytes((rows, width)),
        )
        return directions + max(steps)

    return workspace(signature, p.targets, needed)


@op(
    "merge.tsvm",
    split=Split.TENSOR,
    params=Tsvm,
    each=Weighted,
    base="required",
    simplify=_same,
    check=check,
    workspace=_workspace,
    cite="Gargiulo et al. 2025, Task Singular Vectors: Reducing Task Interference in Model Merging, "
    "arXiv:2412.00081, algorithm 1",
)
def tsvm(x: Chunk, p: Tsvm) -> Tensor:
    """Bring in each delta's leading singular directions, decorrelated: θ0 + λ·polar(Û)·Σ̂·polar(V̂)ᵀ.

    Of each delta U·Σ·Vᵀ the first k = max(1, ⌊min(R,C)/T⌋) directions are kept and put beside those of the others:
    Û [R,Tk], Σ̂, V̂ [C,Tk]. The polar factor is the nearest matrix with orthogonal columns; it is restricted to the
    numerical rank (float32's), so that directions which models share are shared and none is made up. What is no
    matrix gets the mean of the deltas. Decomposed in float64, one model at a time.
    """
    return merged(x, p, partial(_decorrelated, fraction=p.fraction))


def _decorrelated(deltas: Deltas, fraction: float | None) -> Tensor:
    import torch

    from surgery.math.polar import numerical_svd, polar

    rows, columns = deltas.base.shape
    keep, epsilon = kept((rows, columns), len(deltas), fraction), deltas.epsilon
    lefts, values, rights = [], [], []
    for delta in deltas:
        U, S, Vh = numerical_svd(delta, epsilon, keep)
        lefts.append(U.clone())  # it may be a view, which would hold on to all vectors
        values.append(S)
        rights.append(Vh.clone())
        del delta, U, Vh
    left, right = torch.cat(lefts, 1), torch.cat(rights)
    del lefts, rights
    left = polar(left, epsilon).mul_(torch.cat(values))
    return left @ polar(right, epsilon)
