"""merge.multislerp: the mean of the models' directions, at their mean length."""

from __future__ import annotations

import math

from pydantic import Field

from surgery.errors import OpError
from surgery.ops import Params, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import sum_is_zero, weights_of
from surgery_merge._span import Span, mean_direction, nothing_counts, on_sphere, only_counting


class Multislerp(Params):
    """Parameters of merge.multislerp."""

    normalize_weights: bool = True
    """Divide the weights by their sum; false scales the result's length with it."""

    eps: float = Field(default=1e-8, ge=0)
    """Inputs no longer than this have no direction; a mean of unit vectors no longer than this neither."""


class MultislerpModel(Params):
    """Parameters of each model of merge.multislerp."""

    weight: Scalar
    """Share of the model's direction and length; a negative one turns away from it."""


def _same(signature: Signature, p: Multislerp) -> int | None:
    """Return the only model that counts, if it counts once."""
    only = only_counting(signature)
    return only if only is not None and (p.normalize_weights or weights_of(signature)[only] == 1) else None


def _check(signature: Signature, p: Multislerp) -> str | None:
    wrong = sum_is_zero(signature, normalize=p.normalize_weights, parameter="normalize_weights")
    return wrong or nothing_counts(signature)


@op(
    "merge.multislerp",
    params=Multislerp,
    each=MultislerpModel,
    base="optional",
    simplify=_same,
    check=_check,
    buffers=1,
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257",
)
class MultislerpOp(Span):
    """Average directions and lengths apart: (Σ w·|θ|)·m/|m| with m = Σ w·θ/|θ|.

    With a base the differences to it are averaged, and it is added back. Tensors are flattened; inner products are
    summed in float64. It is the point from which merge.karcher starts: of two models of one length and equal weights
    both are slerp's half way; with other weights only merge.karcher divides the arc in their ratio. Zero tensors have
    no direction. Raises OpError where the directions cancel, as those of opposite models do: nothing is their mean.
    mergekit takes the straight line between two such models, as merge.linear does.
    """

    def solve(
        self, signature: Signature, p: Multislerp, total: list[list[float]], found: None
    ) -> list[float]:
        """Return the number that each model, or its delta, is multiplied with."""
        from surgery.math import gram

        G, weights = gram.total(total), weights_of(signature)
        if p.normalize_weights:
            weights = [weight / math.fsum(weights) for weight in weights]
        lengths, cosines = gram.norms(G), gram.cosines(G, p.eps)
        c, size = mean_direction(cosines, weights)
        if cosines.any() and (size < p.eps or not c.any()):
            raise OpError(
                f"merge.multislerp: {signature.name}: the directions of {len(weights)} models cancel, "
                f"their mean is {size:.1g} long; change their weights, or leave it out with `where:` and put in that "
                "of a step of `merge.linear`, the straight line, with `merge.transplant`"
            )
        return on_sphere(c, lengths, math.fsum(w * n for w, n in zip(weights, lengths.tolist(), strict=True)))
