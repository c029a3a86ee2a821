"""merge.sce: select where models differ most, weigh them by how much they changed, erase what disagrees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Reduce, Scan, Signature, op
from surgery.scalars import Scalar, Share
from surgery_merge import _ranks
from surgery_merge._common import lacks_base, subtract
from surgery_merge._election import BUFFERS, Voter, elected
from surgery_merge._ranks import Rank, below

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_merge._ranks import Part, Search

_PIECE: Final = 1 << 15  # elements that are computed with in float64 at a time


class Sce(Params):
    """Parameters of merge.sce."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta."""

    select_topk: Share = 1.0
    """Share of the elements in which the models differ at all that is kept: those of the largest variance."""


@dataclass(slots=True)
class Varied:
    """What blocks say of the threshold of the variances, and of how many are above 0 (of how many seen)."""

    part: Part
    differing: int
    seen: int


@dataclass(slots=True)
class Energies:
    """For each model the sums of squares of blocks, over the selected elements."""

    squares: list[list[float]]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known: the threshold of the variances (empty: none is selected), then the models' shares."""

    search: Search
    shares: list[float] | None = None


def _same(signature: Signature, p: Sce) -> int | None:
    """Return the base when nothing is added or selected, or the only model when it is added whole."""
    if p.lambda_ == 0 or p.select_topk == 0:
        return BASE
    if len(signature.models) > 1:
        return None
    if p.select_topk < 1:
        return BASE  # one model has no variance
    return 0 if p.lambda_ == 1 else None


@op(
    "merge.sce",
    params=Sce,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    buffers=BUFFERS + 1,
    cite="Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models, arXiv:2408.07990",
)
class SceOp(Reduce):
    """Select, calculate, erase: θ0 + λ·Σ m·w·τ̂ / Σ m·w.

    Select: of the elements whose variance over the models is not 0, the ⌊select_topk·n⌋ with the largest stay (those
    that equal the last, too). Calculate: a model's w is its mean τ̂² over the sum of all models'. Erase: m = 1 where τ̂
    has the sign of Σ τ̂, + where that is 0. Thresholds are exact. Where all agree exactly nothing is selected.
    """

    def scan(self, signature: Signature, p: Sce, found: Found | None, done: int) -> Scan | None:
        """Read a sample and everything for the threshold, if there is one, and everything once for the energies."""
        if found is None:
            if p.select_topk >= 1:
                return Scan.ALL
            return _ranks.scan([Rank(0, 1)], signature.numel, None, sampling=True)
        if found.shares is not None:
            return None
        return Scan.ALL

    def gather(self, x: Chunk, p: Sce, found: Found | None) -> Varied | Energies:
        """Return what a block says of the threshold, or of the models' energies."""
        import torch

        if not _seeks(p, found):
            return _energies(x, _cutoff(p, x, found))
        variance = _variance(x)
        part = _ranks.gather(
            [Rank(0, 1)],
            x.signature.numel,
            lambda _: variance,
            found.search if found else None,
            sampling=True,
        )
        return Varied(part, int(torch.count_nonzero(variance)), variance.numel())

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total."""
        if isinstance(total, Varied):
            _ranks.fold(total.part, part.part)
            total.differing += part.differing
            total.seen += part.seen
        else:
            for mine, other in zip(total.squares, part.squares, strict=True):
                mine += other
        return total

    def solve(self, signature: Signature, p: Sce, total: Any, found: Found | None) -> Found:
        """Return the threshold or where to look for it; at last the shares, equal ones if nothing is selected."""
        if isinstance(total, Varied):
            return self._select(signature.numel, p, total, found)
        from surgery.math.reduce import exact_sum

        squares = [exact_sum(model) for model in total.squares]
        energy = math.fsum(squares)
        equal = [1 / len(squares)] * len(squares)
        shares = [square / energy for square in squares] if energy > 0 else equal
        return Found(found.search if found else [], shares)

    def _select(self, numel: int, p: Sce, total: Varied, found: Found | None) -> Found:
        kept = math.floor(p.select_topk * total.differing)
        if total.seen < numel:  # of a sample: about so many of all
            kept = max(1, min(round(kept * numel / total.seen), numel))
        if kept == 0:
            return Found([], [])
        return Found(_ranks.solve([Rank(0, kept)], numel, total.part, found.search if found else None))

    def rests_on(self, signature: Signature, p: Sce) -> float:
        """Return the share that is selected: lambda decides nothing before `apply`."""
        return p.select_topk

    def apply(self, x: Chunk, p: Sce, found: Found) -> Tensor:
        """Return the merged range."""
        assert x.base is not None
        assert found.shares is not None
        if not found.shares:
            return x.out.copy_(x.base)
        selected = _selected(x, _cutoff(p, x, found))
        voters = [
            Voter(write=partial(_write, x, index, selected), ballot=1.0, gain=share, share=share)
            for index, share in enumerate(found.shares)
            if share > 0
        ]
        return elected(x, voters, elect="mass", normalize=True, scale=p.lambda_)


def _seeks(p: Sce, found: Found | None) -> bool:
    """Return whether the threshold of the variances is not yet known."""
    return p.select_topk < 1 and (found is None or not _ranks.settled(found.search))


def _cutoff(p: Sce, x: Chunk, found: Found | None) -> float | None:
    """Return the variance above which elements are selected, None if all are."""
    if p.select_topk >= 1:
        return None
    assert found is not None
    return below(_ranks.thresholds(found.search)[0], double=x.out.element_size() == 8)


def _variance(x: Chunk) -> Tensor:
    """Return the variance over the models, in the last scratch buffer; the base cancels.

    (T·Σd² - (Σd)²)/T² with d the differences to the first model: exactly 0 where all are equal. In float64, where for
    16-bit weights nothing is rounded: elements of one variance stay or go together.
    """
    out, count = x.scratch(BUFFERS), len(x.models)
    for start in range(0, len(out), _PIECE):
        piece = slice(start, start + _PIECE)
        first = x.models[0][piece].double()
        total = _apart(x.models[1][piece], first)
        squares = total * total
        for model in x.models[2:]:
            delta = _apart(model[piece], first)
            total.add_(delta)
            squares.add_(delta.mul_(delta))
        out[piece] = squares.mul_(count).sub_(total.mul_(total)).div_(count * count)
    return out


def _apart(model: Tensor, first: Tensor) -> Tensor:
    """Return model - first in the float64 of the latter; half as long as by torch's own promotion."""
    return model.to(first.dtype, copy=True).sub_(first)


def _selected(x: Chunk, cutoff: float | None) -> Tensor | None:
    """Return 1 where the variance is above the cutoff, else 0, in the last scratch buffer; None if all are."""
    import torch

    if cutoff is None:
        return None
    variance = _variance(x)
    return torch.gt(variance, cutoff, out=variance)


def _write(x: Chunk, index: int, selected: Tensor | None, out: Tensor) -> None:
    subtract(x, index, out)
    if selected is not None:
        out.mul_(selected)


def _energies(x: Chunk, cutoff: float | None) -> Energies:
    from surgery.math.reduce import squared_norm

    selected, delta = _selected(x, cutoff), x.scratch(0)
    squares = []
    for index in range(len(x.models)):
        _write(x, index, selected, delta)
        squares.append([squared_norm(delta)])
    return Energies(squares)
