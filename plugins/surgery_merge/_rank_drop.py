"""Dropping elements of deltas at random, small ones sooner than large ones, as DELLA does.

In a row of c elements the one of rank r (0 for the smallest |τ|) is kept with probability

    p = (density - ε) + 2ε·r/(c - 1)          p = density in a row of one element

With `scope: tensor` the row is the whole tensor (`_rank_op`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from surgery.ops import Beside, Chunk, Signature, Split
from surgery.scalars import Share
from surgery_merge import _mass
from surgery_merge._common import Sparse, lacks_base, subtract
from surgery_merge._drop import Dare

if TYPE_CHECKING:
    from torch import Tensor

SPLITS: Final = (Split.ROW, Split.TENSOR, Split.REDUCE)

# Elements that are ranked at a time: their keys stay in cache.
_PIECE: Final = 1 << 15


class DellaModel(Sparse):
    """Parameters of a model whose small changes are more likely dropped than its large ones."""

    epsilon: Share = 0.15
    """Half the width of the probabilities: from density - epsilon for the smallest to density + epsilon."""


class Della(Dare):
    """Parameters that merge.della and merge.della_linear have in common."""

    rescale: Literal["inverse", "l1", "none"] = "inverse"
    """What survivors are multiplied with: 1/p (the paper; unbiased), or what restores Σ|τ| (mergekit)."""

    scope: Literal["row", "tensor"] = "row"
    """Where elements are ranked: in their row (the paper, mergekit), or in the whole tensor."""


@dataclass(frozen=True, slots=True)
class Survivors:
    """What a model's delta is multiplied with: a number or truth value for each element, then `factor`."""

    mask: Tensor | None
    factor: float = 1.0


def split_of(p: Della) -> Split:
    """Return TENSOR where sums over the tensor are needed and ranks are those of whole rows."""
    if p.scope == "tensor":
        return Split.REDUCE
    return Split.TENSOR if p.rescale == "l1" else Split.ROW


def workspace(signature: Signature, p: Della) -> int:
    """Return the temporaries of a call on a whole tensor: draws, a mask of bytes for each model, some rows."""
    width = 8 if any(spec.dtype == "F64" for spec in signature.models) else 4
    pieces = max(_PIECE, signature.first.row if len(signature.first.shape) > 1 else signature.numel)
    return signature.numel * (width + len(signature.models)) + 12 * width * pieces


def check(signature: Signature, p: Della) -> str | None:
    """Return what is wrong with a tensor: no base, or probabilities that are none."""
    return lacks_base(signature) or next(filter(None, map(_outside, signature.each)), None)


def _outside(each: Any) -> str | None:
    low, high = each.density - each.epsilon, each.density + each.epsilon
    if each.density in (0, 1) or each.epsilon == 0 or (low > 0 and high < 1):
        return None
    most = min(each.density, 1 - each.density)
    return (
        f"density {each.density:g} and epsilon {each.epsilon:g} keep with probabilities from {low:g} to {high:g}, "
        f"they must lie between 0 and 1; set epsilon below {most:g}"
    )


def multipliers(x: Chunk, p: Della) -> list[Survivors]:
    """Return what is left of each model's delta on whole rows [rows, row], or of the whole tensor for `l1`."""
    return [_multiplier(x, p, index, each) for index, each in enumerate(x.signature.each)]


def _multiplier(x: Chunk, p: Della, index: int, each: Any) -> Survivors:
    import torch

    from surgery.math.masks import as_numbers

    if each.density in (0, 1):
        return Survivors(None, each.density)
    draws, base = as_rows(x.uniform(x.signature.place(index))), x.base
    assert base is not None
    inverse = p.rescale == "inverse"
    mask = torch.empty(draws.shape, dtype=draws.dtype if inverse else torch.bool, device=draws.device)
    sums: _mass.Masses = [([], [])]
    for rows in pieces(draws):
        delta = as_rows(x.models[index])[rows] - as_rows(base)[rows]
        kept, probability = _kept(delta, draws[rows], each)
        if inverse:
            as_numbers(kept, mask[rows]).div_(probability)
        else:
            mask[rows] = kept
        if p.rescale == "l1":
            work = torch.empty_like(delta)
            _mass.fold(sums, [([_mass.mass(delta, work)], [_mass.mass(delta.mul_(kept), work)])])
    factor = _mass.factors(sums)[0] if p.rescale == "l1" else 1.0
    return Survivors(mask.view(x.models[index].shape), factor)


def _kept(delta: Tensor, draws: Tensor, each: Any) -> tuple[Tensor, Tensor | float]:
    """Return where some rows keep their elements, and with what probability each is kept."""
    from surgery_merge._row_ranks import mean_ranks

    length = delta.shape[1]
    if length < 2 or each.epsilon == 0:
        return draws < each.density, each.density
    step = 2 * each.epsilon / (length - 1)
    probability = mean_ranks(delta).to(draws.dtype).mul_(step).add_(each.density - each.epsilon)
    return draws < probability, probability


def as_rows(x: Tensor) -> Tensor:
    """Return a tensor as rows; a vector is one row."""
    return x.reshape(len(x), math.prod(x.shape[1:])) if x.dim() > 1 else x.reshape(1, -1)


def pieces(rows: Tensor) -> Iterator[slice]:
    """Yield stretches of rows."""
    count = max(_PIECE // max(rows.shape[1], 1), 1)
    return (slice(first, first + count) for first in range(0, len(rows), count))


def write(x: Chunk, index: int, survivors: Survivors, out: Tensor) -> Tensor:
    """Fill `out` with a model's delta, thinned out but not yet multiplied with the factor."""
    subtract(x, index, out)
    return out if survivors.mask is None else out.mul_(survivors.mask)


@dataclass(slots=True)
class Piece:
    """Some rows of a whole tensor, as a chunk with scratch of its size: a whole tensor's would take gigabytes."""

    whole: Chunk
    rows: slice
    signature: Signature
    models: Sequence[Tensor]
    base: Tensor | None
    start: int
    statistics: Mapping[str, Tensor]
    companions: Beside[Tensor]
    _buffers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def out(self) -> Tensor:
        """The rows of the whole tensor's result."""
        return as_rows(self.whole.out)[self.rows]

    def scratch(self, index: int) -> Tensor:
        """Return scratch buffer `index`."""
        import torch

        if index not in self._buffers:
            self._buffers[index] = torch.empty_like(self.models[0])
        return self._buffers[index]

    def uniform(self, stream: int = 0) -> Tensor:
        """Return the rows' draws."""
        return as_rows(self.whole.uniform(stream))[self.rows]

    def keep(self, probability: float, stream: int = 0) -> Tensor:
        """Return which elements of the rows are kept."""
        return as_rows(self.whole.keep(probability, stream))[self.rows]

    def note(self, name: str, number: float) -> None:
        """Note a number about the whole tensor."""
        self.whole.note(name, number)
