"""merge.ties: trim each delta to its largest elements, elect a sign, average what agrees."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Reduce, Scan, Signature, Split, op
from surgery.scalars import Scalar
from surgery_merge import _trim
from surgery_merge._common import Sparse, densities_of, lacks_base, subtract, weights_of
from surgery_merge._election import BUFFERS, Elect, Voter, elected

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_merge._trim import Part, Search


class Ties(Params):
    """Parameters of merge.ties."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta; the paper uses 1 for the mean."""

    scope: Literal["tensor", "model"] = "tensor"
    """What `density` is a share of: each tensor (mergekit, PEFT), or the whole model (the paper)."""

    elect: Elect = "mass"
    """How signs are elected: by the sum of the deltas (the paper), or by the number of models."""

    normalize: bool = True
    """Take the mean of the deltas that agree; false takes their sum."""

    weighting: Literal["weighted", "unweighted"] = "weighted"
    """Do weights decide elections and the mean's divisor (mergekit), or only scale the deltas (PEFT)?"""

    ties: Literal["keep"] = "keep"
    """Elements that equal the threshold stay, so that no order decides: a few more than `density` may be kept."""


def _same(signature: Signature, p: Ties) -> int | None:
    """Return the base when nothing is added, or the only model when it is added whole."""
    weights, numel = weights_of(signature), signature.numel
    kept = [
        _trim.keeps(density, numel) if weight else 0
        for weight, density in zip(weights, densities_of(signature), strict=True)
    ]
    adding = [index for index, count in enumerate(kept) if count]
    if p.lambda_ == 0 or not adding:
        return BASE
    (only,) = adding if len(adding) == 1 else (None,)
    if only is None or p.lambda_ != 1:
        return None
    everything = kept[only] == numel if p.scope == "tensor" else densities_of(signature)[only] >= 1
    # with unweighted votes the mean of one delta is still scaled by its weight
    once = weights[only] == 1 or (p.normalize and p.weighting == "weighted")
    alone = len(weights) == 1 or p.weighting == "weighted"
    return only if everything and once and alone else None


@op(
    "merge.ties",
    split=lambda p: Split.MODEL if p.scope == "model" else Split.REDUCE,
    splits=(Split.REDUCE, Split.MODEL),
    params=Ties,
    each=Sparse,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    buffers=BUFFERS,
    cite="Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708, algorithm 1",
)
class TiesOp(Reduce):
    """Trim, elect signs, merge: θ0 + λ·mean of the trimmed deltas that have the elected sign.

    Each delta τ = θ - θ0 keeps its k = max(1, ⌊density·n⌋) largest |τ| (those that equal the k-th too). The sign
    of Σ w·τ̂ is elected for each element, +1 where the sum is 0; Σ w·τ̂ over the models that agree is divided by
    Σ w over them. Thresholds are exact. A density of 1 needs no threshold and reads its inputs once.
    """

    def scan(self, signature: Signature, p: Ties, found: Search | None, done: int) -> Scan | None:
        """Read a sample, then all blocks until the thresholds are known."""
        return _trim.scan(signature, found, sampling=p.scope == "tensor")

    def gather(self, x: Chunk, p: Ties, found: Search | None) -> Part:
        """Return what a block says of each model's threshold."""
        return _trim.gather(x, found, sampling=p.scope == "tensor")

    def fold(self, total: Part, part: Part) -> Part:
        """Add a block's part to the total."""
        return _trim.fold(total, part)

    def solve(self, signature: Signature, p: Ties, total: Part, found: Search | None) -> Search:
        """Return each model's threshold, or where the next pass looks for it."""
        return _trim.solve(signature, total, found)

    def rests_on(self, signature: Signature, p: Ties) -> tuple[float, ...]:
        """Return the densities: weights and lambda decide nothing before `apply`."""
        return tuple(densities_of(signature))

    def apply(self, x: Chunk, p: Ties, found: Any) -> Tensor:
        """Return the merged range."""
        thresholds = found or [None] * len(x.models)
        double = x.out.element_size() == 8
        weighted = p.weighting == "weighted"
        voters = [
            Voter(
                write=partial(subtract, x, index),
                ballot=weight if weighted else 1.0,
                gain=weight,
                share=weight if weighted else 1.0,
                cutoff=_trim.cutoff(thresholds[index], double=double),
            )
            for index, (weight, density) in enumerate(
                zip(weights_of(x.signature), densities_of(x.signature), strict=True)
            )
            if density > 0
        ]
        return elected(x, voters, elect=p.elect, normalize=p.normalize, scale=p.lambda_)
