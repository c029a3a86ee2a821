"""merge.della_linear: drop small changes more likely than large ones, scale up the rest, add them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.ops import Chunk, op
from surgery_merge._common import sum_is_zero, weights_of
from surgery_merge._drop import same
from surgery_merge._rank_drop import (
    SPLITS,
    Della,
    DellaModel,
    Survivors,
    check,
    split_of,
    workspace,
    write,
)
from surgery_merge._rank_op import RankDrop

if TYPE_CHECKING:
    from torch import Tensor


class DellaLinear(Della):
    """Parameters of merge.della_linear."""

    normalize: bool = False
    """Divide by the sum of the weights."""


@op(
    "merge.della_linear",
    split=split_of,
    splits=SPLITS,
    params=DellaLinear,
    each=DellaModel,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=False),
    check=lambda signature, p: check(signature, p) or sum_is_zero(signature, normalize=p.normalize),
    vectors="row",
    buffers=1,
    workspace=workspace,
    cite=(
        "Deep et al. 2024, DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling, "
        "arXiv:2406.11617"
    ),
)
class DellaLinearOp(RankDrop):
    """Drop by rank and rescale, then add: θ0 + λ·Σ w·m·(θ - θ0)/p, m = 1 with probability p, else 0.

    In each row of a delta (a vector is one row) p rises from density - ε for the smallest |τ| to density + ε for the
    largest; equal ones share it. With ε = 0 it is merge.dare_linear. What is dropped depends on the deltas, the seed,
    the tensor's name, the model's place in the step (sorted by name) and the element's index alone. `normalize`
    divides by Σ w; `rescale: l1` holds a tensor whole. `scope: tensor` ranks in the whole tensor instead and holds
    none: magnitudes less than 0.4 % apart may count as equal, and the inputs are read once more, with `l1` twice.
    """

    def merge(self, x: Chunk, p: DellaLinear, survivors: Sequence[Survivors]) -> Tensor:
        """Return the merged rows or range."""
        import torch

        weights = weights_of(x.signature)
        scale = p.lambda_ / math.fsum(weights) if p.normalize else p.lambda_
        base, out, delta = x.base, x.out.zero_(), x.scratch(0)
        assert base is not None
        for index, (weight, left) in enumerate(zip(weights, survivors, strict=True)):
            if left.factor > 0 and weight != 0:
                out.add_(write(x, index, left, delta), alpha=weight * left.factor)
        return torch.add(base, out, alpha=scale, out=out)
