"""merge.consensus: of a merged delta, what enough of the models need."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Signature, Split, op
from surgery.scalars import Scalar, Schedulable, Share
from surgery_merge._common import densities_of, lacks_base, scaled, subtract
from surgery_merge._election import BUFFERS, Elect, Voter, agreed
from surgery_merge._trim import SPLITS, Band, Cut, Found, Trim, Trimmed, keeps, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor

Factor = Annotated[float, Schedulable(ge=0)]


class Consensus(Trimmed):
    """Parameters of merge.consensus."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of what is kept of the merged delta."""

    k: int = Field(default=2, ge=0)
    """How many models must need an element for it to be kept; 0 keeps everything, 1 what anyone needs."""

    mask_lambda: Factor = 0.4
    """The paper's λ: the larger it is, the closer the merged delta must be to a model's for the model to need it."""

    merged: Literal["sum", "ties"] = "sum"
    """What is masked: the sum of all deltas, or the deltas that agree after trimming and electing signs."""

    normalize: bool = False
    """Mask the mean of the deltas (with ties: of those that agree) rather than their sum."""

    elect: Elect = "mass"
    """With `merged: ties`: how signs are elected, by the sum of the deltas or by the number of models."""


class ConsensusModel(Params):
    """Parameters of each model of merge.consensus."""

    mask_lambda: Factor | None = None
    """The model's own λ, if not the step's: 0.2 to 0.6, chosen by how well the masked delta does on its task."""

    density: Share = 1.0
    """With `merged: ties`: share of the delta's elements that vote and are added; the mask sees all of them."""


def _same(signature: Signature, p: Consensus) -> int | None:
    """Return the base when nothing is kept, or the only model when all of it is: it needs all that it changed."""
    if p.lambda_ == 0 or p.k > len(signature.models):
        return BASE
    return 0 if len(signature.models) == 1 and p.lambda_ == 1 and p.merged == "sum" else None


def _check(signature: Signature, p: Consensus) -> str | None:
    if p.k > len(signature.models) and not signature.places:
        return (
            f"k: {p.k} models must agree and there are {len(signature.models)}; set k to their number or less"
        )
    sparse = any(density != 1 for density in densities_of(signature))
    if p.merged == "sum" and (sparse or p.scope != "tensor" or p.rescale != "none"):
        return "density, scope and rescale mean nothing to merged: sum; remove them or set merged: ties"
    return lacks_base(signature)


@op(
    "merge.consensus",
    split=lambda p: split_of(p) if p.merged == "ties" else Split.ELEMENT,
    splits=(Split.ELEMENT, *SPLITS),
    pool=pool_of,
    params=Consensus,
    each=ConsensusModel,
    base="required",
    simplify=_same,
    check=_check,
    buffers=BUFFERS,
    cite=(
        "Wang et al. 2024, Localizing Task Information for Improved Model Merging and Compression, "
        "arXiv:2405.07813"
    ),
)
class ConsensusOp(Trim):
    """Keep of the merged delta what at least k models need: θ0 + λ·τ_m·[Σ mask_t ≥ k].

    mask_t = [|τ_t| > λ_t·|τ_m - τ_t|] (a TALL mask) where τ_m, the sum of all deltas or a TIES merge of them, comes
    close to the model's own τ_t. k = 2 takes away what only one model wants and what none does.
    """

    def __call__(self, x: Chunk, p: Consensus) -> Tensor:
        """Return the result on a range where nothing is gathered."""
        return self.apply(x, p, None)

    def bands(self, signature: Signature) -> list[Band]:
        """Return the largest k of each model."""
        return [Band(1, keeps(density, signature.numel)) for density in densities_of(signature)]

    def rests_on(self, signature: Signature, p: Consensus) -> tuple[str | float, ...]:
        """Return rescale and the densities: nothing else decides before `apply`."""
        return (p.rescale, *densities_of(signature))

    def apply(self, x: Chunk, p: Consensus, found: Found | None) -> Tensor:
        """Return the merged range."""
        import torch

        assert x.base is not None
        merged = _ties(x, p, self.cuts(x, found)) if p.merged == "ties" else _sum(x, p)
        if merged is None:
            return x.out.copy_(x.base)
        if p.k > 0:
            votes = _needed(x, p, merged)
            merged.mul_(torch.ge(votes, p.k, out=votes))  # into floats: bool tensors are converted slowly
        return torch.add(x.base, merged, alpha=p.lambda_, out=merged)


def _sum(x: Chunk, p: Consensus) -> Tensor:
    """Return the sum or mean of the deltas in `x.out`; uses scratch buffer 0."""
    out = subtract(x, 0, x.out)
    for index in range(1, len(x.models)):
        out.add_(subtract(x, index, x.scratch(0)))
    return out.div_(len(x.models)) if p.normalize else out


def _ties(x: Chunk, p: Consensus, cuts: Sequence[Cut | None]) -> Tensor | None:
    """Return the sum or mean of the trimmed deltas that agree; None if no model has any."""
    voters = [
        Voter(partial(subtract, x, index), cut.factor, cut.factor, 1.0, cut.low)
        for index, cut in enumerate(cuts)
        if cut is not None
    ]
    return agreed(x, voters, elect=p.elect, normalize=p.normalize)


def _needed(x: Chunk, p: Consensus, merged: Tensor) -> Tensor:
    """Return by how many models each element of the merged delta is needed, in scratch buffer 2."""
    import torch

    delta, rest, count = x.scratch(0), x.scratch(1), x.scratch(2)
    count.zero_()
    for index, entry in enumerate(x.signature.each):
        own = entry.mask_lambda  # type: ignore[attr-defined]
        subtract(x, index, delta)
        scaled(torch.sub(merged, delta, out=rest).abs_(), p.mask_lambda if own is None else own)
        count.add_(torch.gt(delta.abs_(), rest, out=delta))
    return count
