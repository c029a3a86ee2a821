"""merge.breadcrumbs_ties: drop the largest and the smallest changes, then elect signs as TIES does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Chunk, op
from surgery_merge._band import Breadcrumbs, Crumbs, CrumbsTrim, same
from surgery_merge._common import lacks_base, subtract, weights_of
from surgery_merge._election import BUFFERS, Elect, Voter, elected
from surgery_merge._trim import SPLITS, Cut, Found, pool_of, split_of, without_outliers

if TYPE_CHECKING:
    from torch import Tensor


class BreadcrumbsTies(Breadcrumbs):
    """Parameters of merge.breadcrumbs_ties."""

    elect: Elect = "mass"
    """How signs are elected: by the sum of the deltas, or by the number of models."""


@op(
    "merge.breadcrumbs_ties",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=BreadcrumbsTies,
    each=Crumbs,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=True),
    check=lambda signature, p: lacks_base(signature),
    buffers=BUFFERS + 1,
    cite=(
        "Davari and Belilovsky 2023, Model Breadcrumbs, arXiv:2312.06795; "
        "Yadav et al. 2023, TIES-Merging, arXiv:2306.01708"
    ),
)
class BreadcrumbsTiesOp(CrumbsTrim):
    """Drop outliers and small changes, then merge what has the elected sign: TIES with another trim.

    Each delta loses its ⌊γ·n⌋ largest elements, then the smallest until ⌊density·n⌋ are left. The sign of Σ w·τ̂
    is elected for each element, and Σ w·τ̂ over the models that agree is added to the base; `normalize` divides by
    their Σ w.
    """

    def apply(self, x: Chunk, p: BreadcrumbsTies, found: Found | None) -> Tensor:
        """Return the merged range."""
        rows = zip(weights_of(x.signature), self.cuts(x, found), strict=True)
        voters = [
            Voter(
                write=partial(_write, x, index, cut),
                ballot=weight * cut.factor,
                gain=weight * cut.factor,
                share=weight,
                cutoff=cut.low,
            )
            for index, (weight, cut) in enumerate(rows)
            if cut is not None and weight != 0
        ]
        return elected(x, voters, elect=p.elect, normalize=p.normalize, scale=p.lambda_)


def _write(x: Chunk, index: int, cut: Cut, out: Tensor) -> None:
    without_outliers(subtract(x, index, out), cut, x.scratch(BUFFERS))
