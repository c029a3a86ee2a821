"""Which elements of each model's delta stay: those from the `first` to the `last` largest |τ|, found exactly.

    |τ| falling:   1 ......... first ............................. last ......... n
                   outliers    kept                                small: dropped

TIES keeps from 1 to density·n; breadcrumbs drops outliers as well. `Trim` gathers the two thresholds of each model,
and for `rescale: l1` how much of Σ|τ| is left.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from surgery.ops import Chunk, Params, Reduce, Scan, Signature, Split
from surgery_merge import _equals, _mass, _ranks
from surgery_merge._common import subtract
from surgery_merge._ranks import Rank, below, up_to

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Threshold
    from surgery_merge._equals import Rule
    from surgery_merge._mass import Masses
    from surgery_merge._ranks import Search

Scope = Literal["tensor", "layer", "model"]
Rescale = Literal["none", "l1"]

SPLITS = (Split.REDUCE, Split.MODEL)


class Trimmed(Params):
    """Parameters of ops that keep some ranks of |τ|."""

    scope: Scope = "tensor"
    """What shares are shares of: each tensor, each layer (what lies outside layers counts as one), or the model."""

    rescale: Rescale = "none"
    """Multiply what stays of a delta so that Σ|τ| is as before (`l1`, as mergekit can), or leave it (`none`)."""


@dataclass(frozen=True, slots=True)
class Band:
    """The ranks of |τ| that stay, counted from 1 for the largest; none if `last` is 0."""

    first: int
    last: int

    def is_everything(self, numel: int) -> bool:
        """Return whether all of `numel` elements stay."""
        return self.first == 1 and self.last == numel

    def ranks(self, model: int, numel: int) -> tuple[Rank | None, Rank | None]:
        """Return the ranks of the largest and the smallest |τ| that stay, where it must be looked for."""
        if self.last == 0:
            return None, None
        return (
            Rank(model, self.first) if self.first > 1 else None,
            Rank(model, self.last) if self.last < numel else None,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of the thresholds, two for each model, and of the factors that restore Σ|τ|."""

    search: Search
    factors: Sequence[float] | None = None
    equals: Sequence[Rule | None] | None = None  # which of those that equal a threshold stay; None: all


@dataclass(frozen=True, slots=True)
class Cut:
    """What is done to a model's delta: low < |τ| <= high stays, and is multiplied by `factor`."""

    low: float = 0.0
    high: float = math.inf
    factor: float = 1.0
    threshold: Threshold | None = None  # the one behind `low`
    equals: Rule | None = None  # which of those that equal it stay; None: all

    @property
    def is_everything(self) -> bool:
        """Return whether every element stays."""
        return self.low == 0 and self.high == math.inf and self.equals is None


def keeps(density: float, numel: int) -> int:
    """Return how many of `numel` elements are kept: max(1, floor(d·n)), none for d = 0."""
    if density <= 0 or numel == 0:
        return 0
    return min(max(1, math.floor(density * numel)), numel)


def split_of(p: Trimmed) -> Split:
    """Return MODEL where several tensors are compared."""
    return Split.REDUCE if p.scope == "tensor" else Split.MODEL


def pool_of(signature: Signature, p: Trimmed) -> tuple[str, int] | None:
    """Return the tensor's layer where shares are those of layers."""
    return signature.role.place if p.scope == "layer" else None


class Trim(Reduce):
    """Finds the thresholds of each model's band, then, for `rescale: l1`, what restores its Σ|τ|."""

    @abstractmethod
    def bands(self, signature: Signature) -> list[Band]:
        """Return what stays of each model's delta."""

    def scan(self, signature: Signature, p: Any, found: Any, done: int) -> Scan | None:
        """Read a sample, then all blocks until the thresholds are known, and once more to rescale."""
        if found is not None and found.factors is not None:
            return None
        ranks, search = self._ranks(signature), found.search if found else None
        more = _ranks.scan(ranks, signature.numel, search, sampling=p.scope == "tensor")
        if more is None and p.rescale == "l1" and any(ranks):
            return Scan.ALL
        return more

    def gather(self, x: Chunk, p: Any, found: Found | None) -> Any:
        """Return what a block says of each threshold, or how much of Σ|τ| it keeps; uses scratch 0 and 1."""
        if found is not None and _ranks.settled(found.search):
            return self._masses(x, found)
        delta, sampling = x.scratch(0), p.scope == "tensor"
        search = found.search if found else None
        return _ranks.gather(
            self._ranks(x.signature),
            x.signature.numel,
            lambda index: subtract(x, index, delta),
            search,
            sampling=sampling,
        )

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total."""
        return (_mass if part and isinstance(part[0], tuple) else _ranks).fold(total, part)

    def solve(self, signature: Signature, p: Any, total: Any, found: Found | None) -> Any:
        """Return the thresholds, or where the next pass looks for them; at last the factors."""
        if found is not None and _ranks.settled(found.search):
            return replace(found, factors=_mass.factors(total))
        search = found.search if found else None
        return Found(_ranks.solve(self._ranks(signature), signature.numel, total, search))

    def cuts(self, x: Chunk, found: Found | None) -> list[Cut | None]:
        """Return what is done to each model's delta; None if nothing of it stays."""
        double, bands = x.out.element_size() == 8, self.bands(x.signature)
        search = _ranks.thresholds(found.search) if found else [None] * (2 * len(bands))
        factors = (found.factors if found else None) or [1.0] * len(bands)
        equals = (found.equals if found else None) or [None] * len(bands)
        return [
            Cut(
                below(search[2 * i + 1], double=double),
                up_to(search[2 * i], double=double),
                factors[i],
                search[2 * i + 1],
                equals[i],
            )
            if band.last
            else None
            for i, band in enumerate(bands)
        ]

    def _ranks(self, signature: Signature) -> list[Rank | None]:
        numel = signature.numel
        return [rank for i, band in enumerate(self.bands(signature)) for rank in band.ranks(i, numel)]

    def _masses(self, x: Chunk, found: Found) -> Masses:
        """Return each model's Σ|τ| over a block, before and after."""
        delta, work = x.scratch(0), x.scratch(1)
        masses: Masses = []
        for index, cut in enumerate(self.cuts(x, found)):
            if cut is None or cut.is_everything:
                masses.append(([1.0], [1.0]))
                continue
            before = _mass.mass(subtract(x, index, delta), work)
            if cut.equals is not None:
                _equals.writer(x, index, cut.threshold, cut.equals)(delta)
            masses.append(([before], [_mass.mass(trimmed(delta, cut, work), work)]))
        return masses


def trimmed(delta: Tensor, cut: Cut, work: Tensor) -> Tensor:
    """Set what does not stay to 0, in place; `work` is a buffer of the same shape."""
    import torch

    without_outliers(delta, cut, work)
    return torch.hardshrink(delta, cut.low, out=delta) if cut.low > 0 else delta


def without_outliers(delta: Tensor, cut: Cut, work: Tensor) -> Tensor:
    """Set what is larger than the band to 0, in place: x - x = 0, x - 0 = x."""
    import torch

    return delta.sub_(torch.hardshrink(delta, cut.high, out=work)) if cut.high < math.inf else delta
