"""Dropping elements of deltas at random and scaling up the rest, as DARE does."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from surgery.ops import Chunk, Params, Reduce, Scan, Signature, Split
from surgery.scalars import Scalar
from surgery_merge import _mass
from surgery_merge._common import copied, densities_of, subtract

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_merge._mass import Masses


class Dare(Params):
    """Parameters that merge.dare_linear and merge.dare_ties have in common."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta."""

    normalize: bool = False
    """Divide by the sum of the weights (of those that agree, in dare_ties)."""

    rescale: Literal["inverse", "l1", "none"] = "inverse"
    """What survivors are multiplied with: 1/density (the paper; unbiased), or what restores Σ|τ| (mergekit)."""


class Drop(Reduce):
    """Gathers, for `rescale: l1` only, how much of Σ|τ| every model's survivors keep."""

    def __call__(self, x: Chunk, p: Dare) -> Tensor:
        """Return the result on a range where nothing is gathered."""
        return self.apply(x, p, None)

    def scan(self, signature: Signature, p: Dare, found: Any, done: int) -> Scan | None:
        """Read everything once if some model's survivors are rescaled by what they keep."""
        thinned = any(0 < density < 1 for density in densities_of(signature))
        return Scan.ALL if p.rescale == "l1" and thinned and found is None else None

    def gather(self, x: Chunk, p: Dare, found: None) -> Masses:
        """Return each model's Σ|τ| over a block, before and after dropping."""
        return [_masses(x, index, density) for index, density in enumerate(densities_of(x.signature))]

    def fold(self, total: Masses, part: Masses) -> Masses:
        """Collect the blocks' sums."""
        return _mass.fold(total, part)

    def solve(self, signature: Signature, p: Dare, total: Masses, found: None) -> list[float]:
        """Return what each model's survivors are multiplied with."""
        return _mass.factors(total)

    @abstractmethod
    def apply(self, x: Chunk, p: Any, found: list[float] | None) -> Tensor:
        """Return the merged range."""


def split_of(p: Dare) -> Split:
    """Return REDUCE where sums over the tensor are needed."""
    return Split.REDUCE if p.rescale == "l1" else Split.ELEMENT


def factors(x: Chunk, p: Dare, found: list[float] | None) -> list[float]:
    """Return what each model's survivors are multiplied with."""
    if found is not None:
        return found
    inverse = p.rescale == "inverse"
    return [1 / density if inverse and density > 0 else 1.0 for density in densities_of(x.signature)]


def survives(x: Chunk, index: int, density: float, out: Tensor) -> Tensor:
    """Fill `out` with 1 where model `index` keeps its element and 0 elsewhere.

    The stream is the model's place in the step, in sorted order: another model in the step may change which
    elements a model keeps, never how many are expected.
    """
    from surgery.math.masks import as_numbers

    return as_numbers(survivors(x, index, density), out)


def survivors(x: Chunk, index: int, density: float) -> Tensor:
    """Return where model `index` keeps its element, as bool."""
    return x.keep(density, x.signature.place(index))


def same(signature: Signature, p: Dare, *, mean: bool) -> int | None:
    """Return the base when nothing is added, or the only model when it is added whole."""
    return copied(signature, densities_of(signature), scale=p.lambda_, normalize=p.normalize, mean=mean)


def _masses(x: Chunk, index: int, density: float) -> tuple[list[float], list[float]]:
    from surgery.math.reduce import dot

    if not 0 < density < 1:
        return [1.0], [1.0]
    delta, mask = x.scratch(0), x.scratch(1)
    subtract(x, index, delta).abs_()
    before = dot(delta, mask.fill_(1))
    return [before], [dot(delta, survives(x, index, density, mask))]
