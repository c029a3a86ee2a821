"""merge.tsvm: the leading singular directions of every delta, made orthogonal to each other."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

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
_SLACK: Final = 1e-9  # a third of 6 is 2, though floats may say a little less

Part = Annotated[float, Schedulable(gt=0, le=1)]


class Tsvm(Spectral):
    """Parameters of merge.tsvm."""

    fraction: Part | Literal["adaptive"] | None = None
    """Share of a matrix's singular directions that each model brings in; 1/T for T models if left out. `adaptive`: they
    are shared out among the models by how many elements each one changed."""

    reweight: Literal["none", "sigma_clip"] = "none"
    """Cut outliers of a delta to `sigmas` standard deviations from its mean before it is decomposed (`sigma_clip`)."""

    sigmas: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """With `reweight: sigma_clip`: how far from the mean of a matrix's changes its elements may lie."""


def kept(shape: Shape, models: int, fraction: float | None) -> int:
    """Return how many directions each model brings in: max(1, ⌊min(R,C)/T⌋), or ⌊fraction·min(R,C)⌋.

    `fraction` is taken as the decimal that was written: 0.29 of 100 is 29, though the float is below it.
    """
    share = Fraction(1, models) if fraction is None else Fraction(repr(float(fraction)))
    return max(1, math.floor(share * min(shape)))


def _same(signature: Signature, p: Tsvm) -> int | None:
    every = p.fraction in (None, 1, "adaptive")
    return same(signature, p, keeps_one=every and p.reweight == "none")


def _workspace(signature: Signature, p: Tsvm) -> int:
    """Return the bytes of all models' directions and of the largest step: a decomposition, or the product."""
    models = count(signature) or 1

    def needed(shape: Shape) -> int:
        rows, columns = shape
        width = _most(shape, models, p.fraction)
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
    "arXiv:2412.00081, algorithm 1; Yang et al. 2025, Mix Data or Merge Models? Balancing the Helpfulness, Honesty, "
    "and Harmlessness of Large Language Model via Model Merging, arXiv:2502.06876 (R-TSVM: `reweight`, `adaptive`)",
)
def tsvm(x: Chunk, p: Tsvm) -> Tensor:
    """Bring in each delta's leading singular directions, decorrelated: θ0 + λ·polar(Û)·Σ̂·polar(V̂)ᵀ.

    Of each delta U·Σ·Vᵀ the first k = max(1, ⌊min(R,C)/T⌋) directions are kept and put beside those of the others:
    Û [R,Tk], Σ̂, V̂ [C,Tk]. The polar factor is the nearest matrix with orthogonal columns; it is restricted to the
    numerical rank (float32's), so that directions which models share are shared and none is made up. What is no
    matrix gets the mean of the deltas. Decomposed in float64, one model at a time.

    `reweight: sigma_clip` and `fraction: adaptive` are rules of ours after R-TSVM (Yang et al. 2025), which weighs
    outliers down and chooses ranks by sparsity; the paper's exact rule is not used. An element further than `sigmas`
    standard deviations from the mean of its matrix is set to that bound: left as it is, it takes a leading direction
    for itself, which a weight for the whole delta would not change. `adaptive`: of the min(R,C) directions that all
    models bring in together a model has the share d/Σd, and at least one, with d = (Σ|τ|)²/(n·Στ²): 1/n where one
    element changed, 1 where all changed alike. Where d is the same for all it is ⌊min(R,C)/T⌋.
    """
    return merged(x, p, partial(_decorrelated, p=p))


def _most(shape: Shape, models: int, fraction: float | Literal["adaptive"] | None) -> int:
    """Return how many directions all models bring in together, at most."""
    if fraction == "adaptive":
        return min(models * min(shape), min(shape) + models)
    return models * min(kept(shape, models, fraction), *shape)


def _decorrelated(deltas: Deltas, p: Tsvm) -> Tensor:
    import torch

    from surgery.math.polar import numerical_svd, polar

    epsilon = deltas.epsilon
    lefts, values, rights = [], [], []
    for index, keep in enumerate(_counts(deltas, p)):
        delta = _prepared(deltas.of(index), p)
        U, S, Vh = numerical_svd(delta, epsilon, keep)
        lefts.append(U.clone())  # it may be a view, which would hold on to all vectors
        values.append(S)
        rights.append(Vh.clone())
        del delta, U, Vh
    left, right = torch.cat(lefts, 1), torch.cat(rights)
    del lefts, rights
    left = polar(left, epsilon).mul_(torch.cat(values))
    return left @ polar(right, epsilon)


def _counts(deltas: Deltas, p: Tsvm) -> list[int]:
    """Return how many directions each model brings in."""
    rows, columns = deltas.base.shape
    if p.fraction != "adaptive":
        return [kept((rows, columns), len(deltas), p.fraction)] * len(deltas)
    changed = [_changed(_prepared(delta, p)) for delta in deltas]
    whole = math.fsum(changed) or 1.0
    return [max(1, math.floor(min(rows, columns) * one / whole + _SLACK)) for one in changed]


def _changed(delta: Tensor) -> float:
    """Return how large a share of its elements a delta changed, small changes counting less: (Σ|τ|)²/(n·Στ²)."""
    import torch

    size = float(delta.norm())
    return (float(torch.linalg.vector_norm(delta, 1)) / size) ** 2 / delta.numel() if size else 0.0


def _prepared(delta: Tensor, p: Tsvm) -> Tensor:
    """Return a delta with its outliers cut, if they are to be; in place."""
    import torch

    if p.reweight == "none":
        return delta
    deviation, mean = (float(one) for one in torch.std_mean(delta, correction=0))
    return delta.clamp_(mean - p.sigmas * deviation, mean + p.sigmas * deviation)
