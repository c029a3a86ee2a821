"""merge.dare_linear: drop elements of the deltas at random, scale up the rest, add them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.ops import Chunk, Split, op
from surgery_merge._common import Sparse, densities_of, lacks_base, sum_is_zero, weights_of
from surgery_merge._drop import Dare, Drop, factors, same, split_of, survives

if TYPE_CHECKING:
    from torch import Tensor


class DareLinear(Dare):
    """Parameters of merge.dare_linear."""


@op(
    "merge.dare_linear",
    split=split_of,
    splits=(Split.ELEMENT, Split.REDUCE),
    version=2,
    params=DareLinear,
    each=Sparse,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=False),
    check=lambda signature, p: lacks_base(signature) or sum_is_zero(signature, normalize=p.normalize),
    buffers=2,
    cite="Yu et al. 2024, Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch, "
    "arXiv:2311.03099, equation 1",
)
class DareLinearOp(Drop):
    """Drop and rescale, then add: θ0 + λ·Σ w·m·(θ - θ0)/density, m = 1 with probability `density`, else 0.

    The paper drops 90 % and more of the small deltas of instruction tuning: `density: 0.1`. What is dropped
    depends on the seed, the tensor's name, the model's place among those that have the tensor (sorted by name)
    and the element's index alone. `normalize` divides by Σ w.
    """

    def apply(self, x: Chunk, p: Dare, found: list[float] | None) -> Tensor:
        """Return the merged range."""
        import torch

        base, out = x.base, x.out.zero_()
        delta, mask = x.scratch(0), x.scratch(1)
        assert base is not None
        weights = weights_of(x.signature)
        rows = zip(x.models, weights, densities_of(x.signature), factors(x, p, found), strict=True)
        for index, (model, weight, density, factor) in enumerate(rows):
            torch.sub(model, base, out=delta)
            if density >= 1:
                out.add_(delta, alpha=weight)
            elif density > 0:
                out.addcmul_(delta, survives(x, index, density, mask), value=weight * factor)
        scale = p.lambda_ / math.fsum(weights) if p.normalize else p.lambda_
        return torch.add(base, out, alpha=scale, out=out)
