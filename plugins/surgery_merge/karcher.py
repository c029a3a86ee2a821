"""merge.karcher: the mean of directions on the sphere, at the mean length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import Chunk, Params, Signature, op
from surgery_merge._common import weights_of
from surgery_merge._span import (
    Counted,
    Space,
    Span,
    base_for_space,
    mean_direction,
    nothing_counts,
    on_sphere,
    only_counting,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from surgery.math.gram import Matrix

# Of angles with a smaller sine the ratio θ/sin θ is its limit; opposite points have no shortest way between them.
_STRAIGHT = 1e-12


class Karcher(Params):
    """Parameters of merge.karcher."""

    max_iter: int = Field(default=100, ge=0)
    """Steps at most; 0 takes the normalised mean of the directions."""

    tol: float = Field(default=1e-12, ge=0)
    """Steps shorter than this angle, in radians, end the search; inputs no longer than this have no direction."""

    space: Space = "weight"
    """Average the weights, or their differences to the base."""


@dataclass(frozen=True, slots=True)
class Found:
    """What each model is multiplied with, and how long the mean of their directions is: 1 if all are one, 0 if none."""

    shares: list[float]
    agreement: float


def karcher_mean(C: Matrix, shares: Sequence[float], max_iter: int, tol: float) -> Matrix:
    """Return c such that u = Σ c·û minimises Σ w·angle(u, û)², from the cosines C [T, T] of the û.

    Every u is a sum of the û, so that a step costs T² numbers: u ← exp_u(Σ w·log_u û),
    log_u v = (θ/sin θ)·(v - cos θ·u).
    It starts at the normalised mean, or, where that is 0, at the first input of the largest weight.
    """
    import numpy as np

    from surgery.math.gram import length

    weights = np.array(shares) * np.diagonal(C)
    weights /= math.fsum(weights) or 1.0
    c, _ = mean_direction(C, shares)
    if weights.any() and not c.any():
        c = np.eye(len(c))[int(np.argmax(weights))]
    for _ in range(max_iter):
        cosines = np.clip(C @ c, -1.0, 1.0)
        sines = np.sqrt(1 - cosines**2)
        stretch = np.divide(
            np.arccos(cosines), sines, out=(cosines > 0).astype(float), where=~(sines < _STRAIGHT)
        )
        pull = weights * stretch
        step = pull - (pull @ cosines) * c
        angle = length(C, step)
        if not angle > tol:
            break
        c = math.cos(angle) * c + math.sin(angle) / angle * step
        c /= length(C, c)
    return c


@op(
    "merge.karcher",
    params=Karcher,
    each=Counted,
    base="optional",
    simplify=lambda signature, p: only_counting(signature),
    check=lambda signature, p: base_for_space(signature, p.space) or nothing_counts(signature),
    buffers=1,
    cite="Karcher 1977, Riemannian center of mass and mollifier smoothing, section 1; "
    "Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257",
)
class KarcherOp(Span):
    """Average directions along great circles, and lengths apart: (Σ w·|θ|)·u, Σ w = 1.

    u is the point of the unit sphere with the least Σ w·angle(u, θ/|θ|)²; of two models it is the one on their arc that
    merge.slerp finds. Tensors are flattened; their inner products are summed in float64 and all steps are taken with
    those, so that many cost no more than one. Zero tensors have no direction, but a length of 0. Where opposite
    directions cancel, every point is as good: the search begins at the first model of the largest weight, and the
    `agreement` in the report, the length of the directions' mean, is 0. With `space: delta` the differences to the
    base are averaged, and the base is added back.
    """

    def solve(self, signature: Signature, p: Karcher, total: list[list[float]], found: None) -> Found:
        """Return the number that each model, or its delta, is multiplied with."""
        from surgery.math import gram

        G = gram.total(total)
        lengths, weights = gram.norms(G), weights_of(signature)
        cosines = gram.cosines(G, p.tol)
        c = karcher_mean(cosines, weights, p.max_iter, p.tol)
        radius = math.fsum(w * size for w, size in zip(weights, lengths.tolist(), strict=True)) / math.fsum(
            weights
        )
        return Found(on_sphere(c, lengths, radius), mean_direction(cosines, weights)[1])

    def notes(self, signature: Signature, p: Karcher, found: Found) -> Mapping[str, float]:
        """Return how far the models agree; of NaN that are kept there is nothing to tell."""
        return {"agreement": found.agreement} if math.isfinite(found.agreement) else {}

    def apply(self, x: Chunk, p: Karcher, found: Found) -> Tensor:
        """Return the weighted sum of the models, or the base and the sum of their deltas."""
        return super().apply(x, p, found.shares)
