"""merge.breadcrumbs: drop the largest and the smallest changes of each model, add the rest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.ops import Chunk, op
from surgery_merge._band import Breadcrumbs, Crumbs, CrumbsTrim, same
from surgery_merge._common import lacks_base, subtract, sum_is_zero, weights_of
from surgery_merge._trim import SPLITS, Found, pool_of, split_of, trimmed

if TYPE_CHECKING:
    from torch import Tensor


@op(
    "merge.breadcrumbs",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Breadcrumbs,
    each=Crumbs,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=False),
    check=lambda signature, p: lacks_base(signature) or sum_is_zero(signature, normalize=p.normalize),
    buffers=2,
    cite=(
        "Davari and Belilovsky 2023, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, "
        "arXiv:2312.06795"
    ),
)
class BreadcrumbsOp(CrumbsTrim):
    """Drop outliers and small changes, then add: θ0 + λ·Σ w·m·(θ - θ0), m = 1 for the middle of |τ|, else 0.

    Of n elements of a delta the ⌊γ·n⌋ largest are dropped, then the smallest until ⌊density·n⌋ are left; elements
    that equal the largest or smallest that stays, stay. A density of 1 keeps everything, outliers too. Thresholds
    are exact. `normalize` divides by Σ w.
    """

    def apply(self, x: Chunk, p: Breadcrumbs, found: Found | None) -> Tensor:
        """Return the merged range."""
        import torch

        base, out = x.base, x.out.zero_()
        delta, work = x.scratch(0), x.scratch(1)
        assert base is not None
        weights = weights_of(x.signature)
        for index, (weight, cut) in enumerate(zip(weights, self.cuts(x, found), strict=True)):
            if cut is not None and weight != 0:
                trimmed(subtract(x, index, delta), cut, work)
                out.add_(delta, alpha=weight * cut.factor)
        scale = p.lambda_ / math.fsum(weights) if p.normalize else p.lambda_
        return torch.add(base, out, alpha=scale, out=out)
