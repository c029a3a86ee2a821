"""What merge.breadcrumbs and merge.breadcrumbs_ties share: parameters, and the band of |τ| that each model keeps."""

from __future__ import annotations

import math

from pydantic import Field

from surgery.ops import Signature
from surgery.scalars import Scalar, Share
from surgery_merge._common import Sparse, copied, densities_of
from surgery_merge._trim import Band, Trim, Trimmed


class Crumbs(Sparse):
    """Parameters of a model of which the largest and the smallest changes are dropped."""

    gamma: Share = 0.01
    """Share of the delta's elements, the largest, that are dropped as outliers; less if `density` leaves no room."""


class Breadcrumbs(Trimmed):
    """Parameters that merge.breadcrumbs and merge.breadcrumbs_ties have in common."""

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


def same(signature: Signature, p: Breadcrumbs, *, mean: bool) -> int | None:
    """Return the base when nothing is added, or the only model when it is added whole."""
    shares = [
        0.0 if p.scope == "tensor" and math.floor(density * signature.numel) == 0 else density
        for density in densities_of(signature)
    ]
    return copied(signature, shares, scale=p.lambda_, normalize=p.normalize, mean=mean)


class CrumbsTrim(Trim):
    """Finds both ends of every model's band."""

    def bands(self, signature: Signature) -> list[Band]:
        """Return what stays of each model."""
        return [
            band(entry.density, entry.gamma, signature.numel)  # type: ignore[attr-defined]
            for entry in signature.each
        ]

    def rests_on(self, signature: Signature, p: Breadcrumbs) -> tuple[str | float, ...]:
        """Return rescale, densities and gammas: weights and lambda decide nothing before `apply`."""
        gammas = [entry.gamma for entry in signature.each]  # type: ignore[attr-defined]
        return (p.rescale, *densities_of(signature), *gammas)
