"""merge.geometric_median: the point with the least sum of distances to the models, which outliers do not pull."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import Chunk, Params, Signature, op
from surgery_merge._common import weights_of
from surgery_merge._span import Counted, Span, nothing_counts, only_counting
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgery.math.gram import Matrix

# Points nearer than this share of the largest distance are one: squared distances are good to 1e-16 of its square.
_NEAR = 1e-7
_FLAT = 1e-9  # where the pulls on a point cancel but for this share of the weights, it is a median


class GeometricMedian(Params):
    """Parameters of merge.geometric_median."""

    scope: Scope = "tensor"
    """What is a point: each tensor, all tensors of a layer, or the whole model."""

    max_iter: int = Field(default=1000, ge=1)
    """Steps at most."""

    tol: float = Field(default=1e-10, gt=0)
    """Steps shorter than this share of the largest distance between models end the search."""


def median(D: Matrix, shares: Sequence[float], max_iter: int, tol: float) -> Matrix:
    """Return c, Σ c = 1, such that Σ c·x minimises Σ w·|x - Σ c·x|; D [T, T] are products of the x from any origin.

    The mean is taken if it is a median (of two equal models all points between are), then an input if one is; else
    Weiszfeld's steps lead from the mean to the one point that is.
    """
    import numpy as np

    weights = np.array(shares) / math.fsum(shares)
    near = _NEAR * _extent(D)
    if not near > 0:
        return weights
    if _pull(D, weights, weights, near)[1] <= _FLAT:
        return weights
    for point in np.eye(len(weights)):
        _, pull, held = _pull(D, weights, point, near)
        if pull <= held + _FLAT:
            return point
    c = weights
    for _ in range(max_iter):
        before, c = c, _step(D, weights, c, near)
        if _size(D, c - before) <= tol * near / _NEAR:
            break
    return c


def _extent(D: Matrix) -> float:
    """Return the largest distance between two points."""
    import numpy as np

    squares = np.diagonal(D)
    return math.sqrt(max(float(np.max(squares[:, None] + squares - 2 * D)), 0.0))


def _size(D: Matrix, v: Matrix) -> float:
    from surgery.math.gram import length

    return length(D, v)


def _pull(D: Matrix, weights: Matrix, c: Matrix, near: float) -> tuple[Matrix, float, float]:
    """Return the points' w/distance to Σ c·x, how strongly they pull at it, and the weight of those that are there."""
    import numpy as np

    from surgery.math.gram import distances

    apart = distances(D, c)
    away = apart > near
    inverse = np.divide(weights, apart, out=np.zeros_like(apart), where=away)
    return inverse, _size(D, inverse - inverse.sum() * c), math.fsum(weights[~away])


def _step(D: Matrix, weights: Matrix, c: Matrix, near: float) -> Matrix:
    """Return Weiszfeld's next point; from an input only as far as the others outweigh it (Vardi, Zhang)."""
    import numpy as np

    inverse, pull, held = _pull(D, weights, c, near)
    stay = min(1.0, held / pull) if pull else 1.0
    return np.asarray(stay * c + (1 - stay) * inverse / inverse.sum())


@op(
    "merge.geometric_median",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=GeometricMedian,
    each=Counted,
    simplify=lambda signature, p: only_counting(signature),
    check=lambda signature, p: nothing_counts(signature),
    cite="Weiszfeld 1937, Sur le point pour lequel la somme des distances de n points donnés est minimum; "
    "Vardi and Zhang 2000, The multivariate L1-median and associated data depth, PNAS 97(4), equations 2.6 and 2.8",
)
class GeometricMedianOp(Span):
    """Take the point with the least Σ w·|θ - μ|: one model far from the others moves it little, wherever it lies.

    Distances are Euclidean over the flattened tensor, or over all tensors of a layer or model, from inner products of
    the differences to the first model, summed in float64. All steps are taken with those. Where a model is the median
    (more than half of the weight suffices) it is copied bit for bit. Of several medians, which only models on one line
    have, the mean is preferred, then the first model.
    """

    def gather(self, x: Chunk, p: GeometricMedian, found: None) -> list[list[float]]:
        """Return the inner products of the differences to the first model over one block."""
        from surgery.math.reduce import gram

        return [gram(x.models[1:], x.models[0])]

    def solve(
        self, signature: Signature, p: GeometricMedian, total: list[list[float]], found: None
    ) -> list[float]:
        """Return the number that each model is multiplied with."""
        import numpy as np

        from surgery.math import gram

        D = np.pad(gram.total(total), ((1, 0), (1, 0)))
        c: list[float] = median(D, weights_of(signature), p.max_iter, p.tol).tolist()
        return c
