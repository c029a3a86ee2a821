"""merge.breadcrumbs_ties: drop the largest and the smallest changes, then elect signs as TIES does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Chunk, op
from surgery_merge._band import SPLITS, Breadcrumbs, Crumbs, CrumbsTrim, cuts_of_rows, same, split_of
from surgery_merge._common import lacks_base, subtract, weights_of
from surgery_merge._election import BUFFERS, Elect, Voter, elected
from surgery_merge._row_band import RowCuts, in_band
from surgery_merge._trim import Cut, Found, pool_of, without_outliers

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
    vectors="row",
    params=BreadcrumbsTies,
    each=Crumbs,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=True),
    check=lambda signature, p: lacks_base(signature),
    buffers=BUFFERS + 1,
    cite=(
        "Davari and Belilovsky 2023, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, "
        "arXiv:2312.06795; "
        "Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708"
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
        cuts = cuts_of_rows(x, p) if p.scope == "row" else self.cuts(x, found)
        voters = [
            _voter(x, index, cut, weight)
            for index, (weight, cut) in enumerate(zip(weights_of(x.signature), cuts, strict=True))
            if cut is not None and weight != 0
        ]
        return elected(x, voters, elect=p.elect, normalize=p.normalize, scale=p.lambda_)


def _voter(x: Chunk, index: int, cut: Cut | RowCuts, weight: float) -> Voter:
    """Return a model's part in the election, with what stays of its delta."""
    if isinstance(cut, RowCuts):
        return Voter(partial(in_band, x, index, cut), ballot=weight, gain=weight, share=weight)
    gain = weight * cut.factor
    return Voter(partial(_write, x, index, cut), ballot=gain, gain=gain, share=weight, cutoff=cut.low)


def _write(x: Chunk, index: int, cut: Cut, out: Tensor) -> None:
    without_outliers(subtract(x, index, out), cut, x.scratch(BUFFERS))
