"""The op behind merge.della and merge.della_linear: ranks in rows, or in whole tensors that are only streamed.

scope: row       ROW, or TENSOR for `rescale: l1`: rows are sorted where they are seen (`_rank_drop`)
scope: tensor    REDUCE: a histogram of each model's |τ| (`_tensor_ranks`), for `l1` what is kept of Σ|τ|
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgery.ops import Chunk, Reduce, Scan, Signature, Split
from surgery_merge import _mass
from surgery_merge._common import densities_of, subtract
from surgery_merge._rank_drop import Della, Piece, Survivors, as_rows, multipliers, pieces, split_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Counted
    from surgery_merge._mass import Masses


@dataclass(frozen=True, slots=True)
class Found:
    """With `scope: tensor`, of each model: probabilities by magnitude, None where all have one; and its factor."""

    tables: Sequence[Tensor | None]
    factors: Sequence[float] | None = None


class RankDrop(Reduce):
    """Drops by rank: calls `merge` with what survives on whole rows, on a whole tensor, or on ranges of one.

    Gathers for `scope: tensor` only: the histogram of each model's |τ|, then, for `rescale: l1`, what it keeps of Σ|τ|.
    """

    def __call__(self, x: Chunk, p: Any) -> Tensor:
        """Return the merged rows, or the merged tensor piece by piece."""
        survivors = multipliers(x, p)
        if split_of(p) is Split.ROW:
            return self.merge(x, p, survivors)
        models, base = [as_rows(model) for model in x.models], x.base
        assert base is not None
        for rows in pieces(models[0]):
            seen = [model[rows] for model in models]
            start = rows.start * models[0].shape[1]
            told = start, x.statistics, x.companions
            piece = Piece(x, rows, x.signature, seen, as_rows(base)[rows], *told)
            masks = [
                Survivors(s.mask if s.mask is None else as_rows(s.mask)[rows], s.factor) for s in survivors
            ]
            self.merge(piece, p, masks)
        return x.out

    def scan(self, signature: Signature, p: Della, found: Found | None, done: int) -> Scan | None:
        """Read everything for the histograms, and once more to rescale."""
        wanted = 2 if p.rescale == "l1" else 1
        return Scan.ALL if done < wanted and any(map(_thinned, signature.each)) else None

    def gather(self, x: Chunk, p: Della, found: Found | None) -> list[Counted | None] | Masses:
        """Return the histogram of each model's |τ| over a block, or Σ|τ| before and after dropping."""
        from surgery_merge._tensor_ranks import tally

        if found is not None:
            return [_range_masses(x, p, index, found) for index in range(len(x.models))]
        return [
            tally(subtract(x, index, x.scratch(0))) if _ranked(x.signature, each) else None
            for index, each in enumerate(x.signature.each)
        ]

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's histograms, or collect its sums."""
        if any(isinstance(one, tuple) for one in part):
            return _mass.fold(total, part)
        return [mine if mine is None else mine.add(other) for mine, other in zip(total, part, strict=True)]

    def solve(self, signature: Signature, p: Della, total: Any, found: Found | None) -> Found:
        """Return the probabilities of each model, then what its survivors are multiplied with."""
        if found is not None:
            return replace(found, factors=_mass.factors(total))
        return Found(
            [_table(one, signature.numel, each) for one, each in zip(total, signature.each, strict=True)]
        )

    def apply(self, x: Chunk, p: Any, found: Found | None) -> Tensor:
        """Return the merged range of a tensor that was ranked whole."""
        given = densities_of(x.signature)
        if found is None:
            return self.merge(x, p, [Survivors(None, density) for density in given])
        factors = found.factors or [1.0] * len(given)
        survivors = [
            Survivors(_range_mask(x, p, index, found), factor if 0 < density < 1 else density)
            for index, (factor, density) in enumerate(zip(factors, given, strict=True))
        ]
        return self.merge(x, p, survivors)

    @abstractmethod
    def merge(self, x: Chunk, p: Any, survivors: Sequence[Survivors]) -> Tensor:
        """Return the result on what is seen, in `x.out`, from what survives of each model's delta."""


def _thinned(each: Any) -> bool:
    return bool(0 < each.density < 1)


def _ranked(signature: Signature, each: Any) -> bool:
    return _thinned(each) and bool(each.epsilon > 0) and signature.numel > 1


def _table(counted: Counted | None, numel: int, each: Any) -> Tensor | None:
    """Return with what probability the magnitudes of each bin are kept, float32."""
    import torch

    from surgery_merge._tensor_ranks import ranks

    if counted is None:
        return None
    low, step = each.density - each.epsilon, 2 * each.epsilon / (numel - 1)
    return torch.from_numpy((low + step * ranks(counted)).astype("float32"))


def _range_mask(x: Chunk, p: Della, index: int, found: Found) -> Tensor | None:
    """Return what is left of a model's delta on a range; uses scratch buffer 0."""
    from surgery_merge._tensor_ranks import looked_up

    each, table = x.signature.each[index], found.tables[index]
    if not _thinned(each):
        return None
    probability = each.density if table is None else looked_up(subtract(x, index, x.scratch(0)), table)  # type: ignore[attr-defined]
    draws = x.uniform(x.signature.place(index))
    kept = draws < probability
    return kept.to(draws.dtype).div_(probability) if p.rescale == "inverse" else kept


def _range_masses(x: Chunk, p: Della, index: int, found: Found) -> tuple[list[float], list[float]]:
    """Return a model's Σ|τ| over a block before and after dropping; uses scratch buffer 0."""
    import torch

    mask = _range_mask(x, p, index, found)
    if mask is None:
        return [1.0], [1.0]
    delta = subtract(x, index, x.scratch(0))
    work = torch.empty_like(delta)
    before = _mass.mass(delta, work)
    return [before], [_mass.mass(delta.mul_(mask), work)]
