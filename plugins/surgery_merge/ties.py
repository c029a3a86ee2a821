"""merge.ties: trim each delta to its largest elements, elect a sign, average what agrees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from surgery.ops import BASE, Chunk, Scan, Signature, op
from surgery.scalars import Scalar
from surgery_merge import _equals, _ranks
from surgery_merge._common import Sparse, densities_of, lacks_base, weights_of
from surgery_merge._election import BUFFERS, Elect, Voter, elected, majority
from surgery_merge._trim import SPLITS, Band, Found, Scope, Trim, Trimmed, keeps, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Threshold


@dataclass(frozen=True, slots=True)
class Majority:
    """What is known of the trim, and the sign that more elements elect."""

    trimmed: Found | None
    sign: int


class Ties(Trimmed):
    """Parameters of merge.ties."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta; the paper uses 1 for the mean."""

    scope: Scope = "tensor"
    """What `density` is a share of: each tensor (mergekit, PEFT), each layer, or the whole model (the paper)."""

    elect: Elect = "mass"
    """How signs are elected: by the sum of the deltas (the paper), or by the number of models."""

    normalize: bool = True
    """Take the mean of the deltas that agree; false takes their sum."""

    weighting: Literal["weighted", "unweighted"] = "weighted"
    """Do weights decide elections and the mean's divisor (mergekit), or only scale the deltas (PEFT)?"""

    ties: Literal["keep", "index", "random"] = "keep"
    """Elements that equal the threshold: all stay, so that no order decides; those of the lowest index do, so that
    exactly k stay; or random ones do, so that k stay on average."""

    zero_sign: Literal["plus", "majority"] = "plus"
    """The sign where the sum is 0: + (mergekit, PEFT), or the one elected more often in `scope` (the authors' code)."""


def _same(signature: Signature, p: Ties) -> int | None:
    """Return the base when nothing is added, or the only model when it is added whole."""
    weights, numel = weights_of(signature), signature.numel
    kept = [
        keeps(density, numel) if weight else 0
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
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Ties,
    each=Sparse,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    buffers=BUFFERS,
    cite="Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708, algorithm 1",
)
class TiesOp(Trim):
    """Trim, elect signs, merge: θ0 + λ·mean of the trimmed deltas that have the elected sign.

    Each delta τ = θ - θ0 keeps its k = max(1, ⌊density·n⌋) largest |τ| (those that equal the k-th too). The sign
    of Σ w·τ̂ is elected for each element, +1 where the sum is 0; Σ w·τ̂ over the models that agree is divided by
    Σ w over them. Thresholds are exact. A density of 1 needs no threshold and reads its inputs once.

    `ties: index` reads them twice more where it leaves equals out; of tensors that are compared the first by name comes
    first. Which equals `ties: random` takes depends on the seed, the tensor's name, the model's place in the step and
    the element's index alone. `zero_sign: majority` reads once more; in a draw of both signs it is +.
    """

    def bands(self, signature: Signature) -> list[Band]:
        """Return the largest k of each model."""
        return [Band(1, keeps(density, signature.numel)) for density in densities_of(signature)]

    def rests_on(self, signature: Signature, p: Ties) -> tuple[str | float, ...] | None:
        """Return rescale and the densities: weights and lambda decide nothing before `apply` but majorities."""
        if p.zero_sign == "majority" or p.ties == "random":
            return None
        return (p.rescale, p.ties, *densities_of(signature))

    def scan(self, signature: Signature, p: Ties, found: Majority | Found | None, done: int) -> Scan | None:
        """Read what Trim does, for `index` twice more after the thresholds, for `majority` once more at last."""
        if isinstance(found, Majority):
            return None
        if found is not None and self._ordering(signature, p, found):
            return Scan.ALL
        counting = p.zero_sign == "majority" and len(signature.models) > 1
        return super().scan(signature, p, found, done) or (Scan.ALL if counting else None)

    def gather(self, x: Chunk, p: Ties, found: Found | None) -> Any:
        """Return what a block tells of thresholds, of their equals, of Σ|τ|, or of the elected signs."""
        if found is not None and self._ordering(x.signature, p, found):
            return _equals.gather(
                x, self._contested(x.signature, found), found.equals or [None] * len(x.models)
            )
        if super().scan(x.signature, p, found, 0) is None:
            return majority(x, self._voters(x, p, found), elect=p.elect)
        return super().gather(x, p, found)

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total."""
        if isinstance(part, int):
            return total + part
        return total.add(part) if isinstance(part, _equals.Seen) else super().fold(total, part)

    def solve(self, signature: Signature, p: Ties, total: Any, found: Found | None) -> Found | Majority:
        """Return what the next pass or `apply` needs."""
        if isinstance(total, int):
            return Majority(found, -1 if total < 0 else 1)
        if isinstance(total, _equals.Seen):
            assert found is not None
            rules = found.equals or [None] * len(signature.models)
            contested = self._contested(signature, found)
            return replace(found, equals=_equals.solve(total, contested, self._ks(signature), rules))
        made: Found = super().solve(signature, p, total, found)
        if p.ties == "random" and made.equals is None and _ranks.settled(made.search):
            pairs = zip(self._contested(signature, made), self._ks(signature), strict=True)
            made = replace(made, equals=[None if t is None else _equals.share(t, k) for t, k in pairs])
        return made

    def apply(self, x: Chunk, p: Ties, found: Majority | Found | None) -> Tensor:
        """Return the merged range."""
        zero = found.sign if isinstance(found, Majority) else 1
        voters = self._voters(x, p, found.trimmed if isinstance(found, Majority) else found)
        return elected(x, voters, elect=p.elect, normalize=p.normalize, scale=p.lambda_, zero=zero)

    def _voters(self, x: Chunk, p: Ties, found: Found | None) -> list[Voter]:
        weighted = p.weighting == "weighted"
        return [
            Voter(
                write=_equals.writer(x, index, cut.threshold, cut.equals),
                ballot=(weight if weighted else 1.0) * cut.factor,
                gain=weight * cut.factor,
                share=weight if weighted else 1.0,
                cutoff=cut.low,
            )
            for index, (weight, cut) in enumerate(
                zip(weights_of(x.signature), self.cuts(x, found), strict=True)
            )
            if cut is not None
        ]

    def _ks(self, signature: Signature) -> list[int]:
        return [band.last for band in self.bands(signature)]

    def _contested(self, signature: Signature, found: Found) -> list[Threshold | None]:
        """Return the thresholds that more than k elements reach."""
        thresholds = _ranks.thresholds(found.search)[1::2]
        return [
            threshold if _equals.surplus(threshold, k) else None
            for threshold, k in zip(thresholds, self._ks(signature), strict=True)
        ]

    def _ordering(self, signature: Signature, p: Ties, found: Found) -> bool:
        """Return whether it is still to be found up to which index equals stay."""
        if p.ties != "index" or not _ranks.settled(found.search):
            return False
        if found.equals is None:
            return any(self._contested(signature, found))
        return any(isinstance(rule, _equals.Within) for rule in found.equals)
