"""merge.breadcrumbs: drop the largest and the smallest changes of each model, add the rest."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.ops import Chunk, op
from surgery_merge._band import SPLITS, Breadcrumbs, Crumbs, CrumbsTrim, cuts_of_rows, same, split_of
from surgery_merge._common import lacks_base, subtract, sum_is_zero, weights_of
from surgery_merge._row_band import RowCuts, in_band
from surgery_merge._trim import Found, pool_of, trimmed

if TYPE_CHECKING:
    from torch import Tensor


@op(
    "merge.breadcrumbs",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    vectors="row",
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
    are exact. With `scope: row` n are the elements of a row (a vector is one), and nothing is read twice.
    `normalize` divides by Σ w.
    """

    def apply(self, x: Chunk, p: Breadcrumbs, found: Found | None) -> Tensor:
        """Return the merged range."""
        import torch

        weights, cuts = (
            weights_of(x.signature),
            cuts_of_rows(x, p) if p.scope == "row" else self.cuts(x, found),
        )
        base, out, delta = x.base, x.out.zero_(), x.scratch(0)
        assert base is not None
        for index, (weight, cut) in enumerate(zip(weights, cuts, strict=True)):
            if cut is None or weight == 0:
                continue
            if isinstance(cut, RowCuts):
                out.add_(in_band(x, index, cut, delta), alpha=weight)
            else:
                trimmed(subtract(x, index, delta), cut, x.scratch(1))
                out.add_(delta, alpha=weight * cut.factor)
        scale = p.lambda_ / math.fsum(weights) if p.normalize else p.lambda_
        return torch.add(base, out, alpha=scale, out=out)
