"""merge.slerp: from one model to another along the great circle between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import Chunk, Params, Reduce, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import add_deltas, weighted_sum
from surgery_merge._span import Space, base_for_space

if TYPE_CHECKING:
    from torch import Tensor


class Slerp(Params):
    """Parameters of merge.slerp."""

    t: Scalar
    """Where between the models: 0 is the first, 1 the second."""

    dot_threshold: float = Field(default=0.9995, ge=0, le=1)
    """Above this |cosine| the models are interpolated along the straight line."""

    space: Space = "weight"
    """Interpolate the weights, or their differences to the base: siblings have cosines near 1 as weights."""


@dataclass(slots=True)
class Norms:
    """Squared norms of the blocks of a, b and a-b; kept apart so that their sum has no order."""

    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)
    difference: list[float] = field(default_factory=list)


def coefficients(t: float, a: float, b: float, difference: float, threshold: float) -> tuple[float, float]:
    """Return what a and b are multiplied with, from the squared norms of a, b and a-b.

    Ω = 2·atan2(√p, √(4-p)) with p = (|a-b|² - (|a|-|b|)²)/(|a||b|) = 4·sin²(Ω/2): nothing cancels where models are
    alike. Of opposite ones digits are lost, half of them at π - 10⁻⁴, where the default threshold has long taken the
    straight line. The ends are not normalised. Parallel, opposite and zero vectors: a straight line.
    """
    product = math.sqrt(a) * math.sqrt(b)
    straight = (1 - t, t)
    if product == 0:
        return straight
    gap = (math.sqrt(a) - math.sqrt(b)) ** 2
    p = min(max(difference - gap, 0.0) / product, 4.0)
    q = 4.0 - p
    if abs(q - p) / 4 > threshold or p == 0 or q == 0:
        return straight
    omega = 2 * math.atan2(math.sqrt(p), math.sqrt(q))
    return math.sin((1 - t) * omega) / math.sin(omega), math.sin(t * omega) / math.sin(omega)


def _same(signature: Signature, p: Slerp) -> int | None:
    """Return the end that is the result; a model that alone has a tensor gives it whole."""
    if len(signature.models) == 1:
        return 0
    return int(p.t) if p.t in (0, 1) else None


@op(
    "merge.slerp",
    params=Slerp,
    base="optional",
    models=2,
    ordered=True,
    simplify=_same,
    check=lambda signature, p: base_for_space(signature, p.space),
    buffers=2,
    cite="Shoemake 1985, Animating rotation with quaternion curves",
)
class SlerpOp(Reduce):
    """Interpolate two models spherically: [sin((1-t)Ω)·a + sin(tΩ)·b] / sin Ω.

    Ω is the angle between the flattened tensors, from norms summed in float64. The ends keep their norms. Above
    `dot_threshold` the straight line (1-t)·a + t·b is taken. With `space: delta` a and b are the differences
    to the base, which is added back.
    """

    def gather(self, x: Chunk, p: Slerp, found: None) -> Norms:
        """Return the squared norms of one block."""
        import torch

        from surgery.math.reduce import squared_norm

        a, b = x.models
        work, other = x.scratch(0), x.scratch(1)
        norms = Norms(difference=[squared_norm(torch.sub(a, b, out=work))])
        if p.space == "delta":
            assert x.base is not None
            a, b = torch.sub(a, x.base, out=work), torch.sub(b, x.base, out=other)
        norms.a.append(squared_norm(a))
        norms.b.append(squared_norm(b))
        return norms

    def fold(self, total: Norms, part: Norms) -> Norms:
        """Collect the blocks' norms."""
        total.a += part.a
        total.b += part.b
        total.difference += part.difference
        return total

    def solve(self, signature: Signature, p: Slerp, total: Norms, found: None) -> tuple[float, float]:
        """Return the coefficients of the two models."""
        from surgery.math.reduce import exact_sum

        a, b, difference = map(exact_sum, (total.a, total.b, total.difference))
        return coefficients(p.t, a, b, difference, p.dot_threshold)

    def apply(self, x: Chunk, p: Slerp, found: tuple[float, float]) -> Tensor:
        """Return the weighted sum of the models, or of their deltas."""
        if p.space == "delta":
            return add_deltas(x, found, 1.0)
        return weighted_sum(x.models, found, x.out)
