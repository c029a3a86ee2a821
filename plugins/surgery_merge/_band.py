"""What merge.breadcrumbs and merge.breadcrumbs_ties share: parameters, and the band of |τ| that each model keeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from surgery.ops import Chunk, Signature, Split
from surgery.scalars import Scalar, Share
from surgery_merge import _trim
from surgery_merge._common import Sparse, copied, densities_of
from surgery_merge._row_band import RowCuts, row_cuts, row_length
from surgery_merge._trim import Band, Trim, Trimmed

if TYPE_CHECKING:
    from torch import Tensor

SPLITS: Final = (*_trim.SPLITS, Split.ROW)


class Crumbs(Sparse):
    """Parameters of a model of which the largest and the smallest changes are dropped."""

    gamma: Share = 0.01
    """Share of the delta's elements, the largest, that are dropped as outliers; less if `density` leaves no room."""


class Breadcrumbs(Trimmed):
    """Parameters that merge.breadcrumbs and merge.breadcrumbs_ties have in common."""

    scope: Literal["tensor", "row", "layer", "model"] = "tensor"  # type: ignore[assignment]  # one more than TIES has
    """What shares are shares of: each tensor (mergekit), each row (output of a Linear; the authors' code), each layer
    (what lies outside layers counts as one), or the model."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta; the paper takes one factor for all tasks."""

    normalize: bool = False
    """Divide by the sum of the weights (of those that agree, in breadcrumbs_ties)."""


def band(density: float, gamma: float, numel: int) -> Band:
    """Return the ranks that stay of `numel`: without the ⌊γ·n⌋ largest, the next ⌊density·n⌋.

    A gamma above 1 - density is cut so that ⌊density·n⌋ stay, as in mergekit.
    """
    kept = min(math.floor(density * numel), numel)
    outliers = min(math.floor(gamma * numel), numel - kept)
    return Band(outliers + 1, outliers + kept) if kept else Band(1, 0)


def split_of(p: Breadcrumbs) -> Split:
    """Return ROW where rows are seen whole, MODEL where several tensors are compared."""
    return Split.ROW if p.scope == "row" else _trim.split_of(p)


def same(signature: Signature, p: Breadcrumbs, *, mean: bool) -> int | None:
    """Return the base when nothing is added, or the only model when it is added whole."""
    compared = {"tensor": signature.numel, "row": row_length(signature)}.get(p.scope)
    shares = [
        0.0 if compared is not None and math.floor(density * compared) == 0 else density
        for density in densities_of(signature)
    ]
    return copied(signature, shares, scale=p.lambda_, normalize=p.normalize, mean=mean)


class CrumbsTrim(Trim):
    """Finds both ends of every model's band."""

    def __call__(self, x: Chunk, p: Breadcrumbs) -> Tensor:
        """Return the merged rows, for which nothing is gathered."""
        return self.apply(x, p, None)

    def bands(self, signature: Signature) -> list[Band]:
        """Return what stays of each model."""
        return _bands(signature, signature.numel)

    def rests_on(self, signature: Signature, p: Breadcrumbs) -> tuple[str | float, ...]:
        """Return rescale, densities and gammas: weights and lambda decide nothing before `apply`."""
        gammas = [entry.gamma for entry in signature.each]  # type: ignore[attr-defined]
        return (p.rescale, *densities_of(signature), *gammas)


def cuts_of_rows(x: Chunk, p: Breadcrumbs) -> list[RowCuts | None]:
    """Return what stays of each model's rows; uses scratch buffer 0."""
    bands = _bands(x.signature, row_length(x.signature))
    return [row_cuts(x, index, one, rescale=p.rescale == "l1") for index, one in enumerate(bands)]


def _bands(signature: Signature, numel: int) -> list[Band]:
    """Return what stays of each model of so many elements that are compared."""
    return [band(entry.density, entry.gamma, numel) for entry in signature.each]  # type: ignore[attr-defined]
