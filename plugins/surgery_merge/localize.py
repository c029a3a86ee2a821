"""merge.localize: from every model the few elements that changed most, stitched together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Signature, op
from surgery.scalars import Scalar, Share
from surgery_merge._common import densities_of, lacks_base, subtract
from surgery_merge._trim import SPLITS, Band, Found, Trim, Trimmed, keeps, pool_of, split_of, trimmed

if TYPE_CHECKING:
    from torch import Tensor


class Localize(Trimmed):
    """Parameters of merge.localize."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the stitched delta."""


class Region(Params):
    """Parameters of each model of merge.localize."""

    density: Share = 0.01
    """Share of the delta's elements that are the model's region."""


def _same(signature: Signature, p: Localize) -> int | None:
    """Return the base when nothing is stitched in, or the only model when all of it is."""
    densities = densities_of(signature)
    if p.lambda_ == 0 or not any(densities):
        return BASE
    return 0 if p.lambda_ == 1 and densities == [1] else None


@op(
    "merge.localize",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Localize,
    each=Region,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    buffers=3,
    cite=(
        "He et al. 2024, Localize-and-Stitch: Efficient Model Merging via Sparse Task Arithmetic, "
        "arXiv:2408.13656 (the variant without data)"
    ),
)
class LocalizeOp(Trim):
    """Stitch the regions that changed most into the base: θ0 + λ·Σ m_t·τ_t / Σ m_t.

    The mask m_t of a model has its max(1, ⌊density·n⌋) largest |τ| (those that equal the last too), less those that
    are 0. Regions rarely overlap when they are small; where they do, the mean is taken. Unlike TIES nothing is elected.
    """

    def bands(self, signature: Signature) -> list[Band]:
        """Return the largest k of each model."""
        return [Band(1, keeps(density, signature.numel)) for density in densities_of(signature)]

    def rests_on(self, signature: Signature, p: Localize) -> tuple[str | float, ...]:
        """Return rescale and the densities: lambda decides nothing before `apply`."""
        return (p.rescale, *densities_of(signature))

    def apply(self, x: Chunk, p: Localize, found: Found | None) -> Tensor:
        """Return the stitched range."""
        import torch

        out, delta, work, count = x.out.zero_(), x.scratch(0), x.scratch(1), x.scratch(2).zero_()
        for index, cut in enumerate(self.cuts(x, found)):
            if cut is not None:
                trimmed(subtract(x, index, delta), cut, work)
                out.add_(delta, alpha=cut.factor)
                count.add_(torch.ne(delta, 0, out=delta))
        out.div_(count.clamp_(min=1))
        assert x.base is not None
        return torch.add(x.base, out, alpha=p.lambda_, out=out)
