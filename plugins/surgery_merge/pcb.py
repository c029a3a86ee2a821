"""merge.pcb: each element of each delta is weighed by its size and by how far the other deltas agree with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Reduce, Scan, Signature, op
from surgery.scalars import Scalar
from surgery_merge import _ranks
from surgery_merge._common import lacks_base, subtract
from surgery_merge._ranks import Rank
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_merge._ranks import Part, Ranks, Search

_LEAST: Final = 1e-12  # of Σ s, as in the authors' code
_MOST_MODELS: Final = 80  # exp(80) is a float32, exp(89) is not

_SUM, _DELTA, _BETA, _TOTAL = range(4)  # scratch buffers


class Pcb(Params):
    """Parameters of merge.pcb."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta; the authors search from 0.8 to 1.3."""

    ratio: float = Field(default=0.1, gt=0, le=1)
    """Share of each delta's elements that get a weight: those of the highest scores."""

    clip: float = Field(default=1e-4, ge=0, lt=0.5)
    """Share of |τ| at either end that is clipped, so that outliers do not set the scale."""

    scope: Scope = "model"
    """What shares are shares of, and where sizes are compared: the whole model (the paper), each layer or tensor."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of each model's clip points, of its largest score, and of the score from which weights rise.

    Ranks are those of magnitudes, so signed scores are seen as max(β, 0) and, where that is 0 at the rank, as
    max(-β, 0): few models need it.
    """

    clips: Search
    scores: Search | None = None
    negatives: Search | None = None
    tops: list[float] | None = None


@dataclass(slots=True)
class Scores:
    """What blocks say of the ranks of scores, and each model's largest."""

    part: Part
    tops: list[float]


@op(
    "merge.pcb",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Pcb,
    base="required",
    models=(1, _MOST_MODELS),
    simplify=lambda signature, p: BASE if p.lambda_ == 0 or not signature.first.numel else None,
    check=lambda signature, p: lacks_base(signature),
    buffers=4,
    cite="Du et al. 2024, Parameter Competition Balancing for Model Merging, arXiv:2410.02396",
)
class PcbOp(Reduce):
    """Weigh elements by their scores and average: θ0 + λ·Σ s·τ̃ / Σ s.

    τ̃ is τ with |τ| clipped to its order statistics at `clip` and 1 - `clip`; a is |τ̃| from 0 for the least to 1 for the
    largest. The score is β = exp(T·a²)·tanh(τ·Σ τ) for T models: size within a model times agreement between them. s is
    β from 0 at its (1 - `ratio`) order statistic, and below, to 1 for the largest. Order statistics are exact.
    """

    gathers = 4  # two passes each for clip points and scores, where no sample is taken

    def scan(self, signature: Signature, p: Pcb, found: Found | None, done: int) -> Scan | None:
        """Look for the clip points, then for the scores, then for those that are not positive."""
        ranks, search = _sought(signature, p, found)
        return _ranks.scan(ranks, signature.numel, search, sampling=p.scope == "tensor")

    def gather(self, x: Chunk, p: Pcb, found: Found | None) -> Part | Scores:
        """Return what a block says of the order statistics."""
        (ranks, search), numel, sampling = (
            _sought(x.signature, p, found),
            x.signature.numel,
            p.scope == "tensor",
        )
        if found is None or not _ranks.settled(found.clips):
            delta = x.scratch(_DELTA)
            return _ranks.gather(ranks, numel, lambda i: subtract(x, i, delta), search, sampling=sampling)
        total, negative = _sum(x), _is_negative(found)
        tops = [-math.inf] * len(x.models)

        def half(index: int) -> Tensor:
            beta = _score(x, index, found.clips, total)
            tops[index] = float(beta.max())
            return (beta.neg_() if negative else beta).clamp_(min=0)

        return Scores(_ranks.gather(ranks, numel, half, search, sampling=sampling), tops)

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total."""
        if not isinstance(total, Scores):
            return _ranks.fold(total, part)
        tops = [max(pair) for pair in zip(total.tops, part.tops, strict=True)]
        return Scores(_ranks.fold(total.part, part.part), tops)

    def solve(self, signature: Signature, p: Pcb, total: Any, found: Found | None) -> Found:
        """Return the order statistics, or where to look for them."""
        (ranks, search), numel = _sought(signature, p, found), signature.numel
        if found is None or not isinstance(total, Scores):
            return Found(_ranks.solve(ranks, numel, total, search))
        made = _ranks.solve(ranks, numel, total.part, search)
        if _is_negative(found):
            return replace(found, negatives=made)
        known = found.tops or total.tops
        return replace(found, scores=made, tops=[max(pair) for pair in zip(known, total.tops, strict=True)])

    def rests_on(self, signature: Signature, p: Pcb) -> tuple[float, float]:
        """Return what decides scores: lambda does not."""
        return p.ratio, p.clip

    def apply(self, x: Chunk, p: Pcb, found: Found) -> Tensor:
        """Return the merged range."""
        import torch

        assert x.base is not None
        assert found.tops is not None
        total, out, divisor, delta = _sum(x), x.out.zero_(), x.scratch(_TOTAL).zero_(), x.scratch(_DELTA)
        for index in range(len(x.models)):
            floor, top = _floor(found, index), found.tops[index]
            if top <= floor:
                continue
            weight = _score(x, index, found.clips, total).sub_(floor).clamp_(min=0).div_(top - floor)
            divisor.add_(weight)
            low, high = _ends(found.clips, index)
            size = torch.abs(subtract(x, index, delta)).clamp_(low, high)
            out.addcmul_(weight, delta.sign_().mul_(size))
        out.div_(divisor.clamp_(min=_LEAST))
        return torch.add(x.base, out, alpha=p.lambda_, out=out)


def _clips(signature: Signature, p: Pcb) -> list[Rank | None]:
    """Return the ranks of the least and the largest |τ| of each model that is not clipped."""
    cut = math.floor(p.clip * signature.numel)
    return [Rank(i, k) for i in range(len(signature.models)) for k in (signature.numel - cut, cut + 1)]


def _sought(signature: Signature, p: Pcb, found: Found | None) -> tuple[Ranks, Search | None]:
    """Return the ranks that are looked for next (if any is left), and what is known of them.

    The k-th largest score is the k-th largest max(β, 0) or, if that is 0, the (n - k + 1)-th largest max(-β, 0).
    """
    if found is None or not _ranks.settled(found.clips):
        return _clips(signature, p), found.clips if found else None
    numel, count = signature.numel, len(signature.models)
    k = max(numel - math.floor((1 - p.ratio) * numel), 1)
    if found.scores is None or not _ranks.settled(found.scores):
        return [Rank(i, k) for i in range(count)], found.scores
    zero = [_value(found.scores, i) == 0 for i in range(count)]
    return [Rank(i, numel - k + 1) if zero[i] else None for i in range(count)], found.negatives


def _is_negative(found: Found) -> bool:
    """Return whether scores that are not positive are looked at."""
    return found.scores is not None and _ranks.settled(found.scores)


def _value(search: Search, index: int) -> float:
    """Return a threshold's value."""
    threshold = _ranks.thresholds(search)[index]
    assert threshold is not None
    return threshold.value


def _ends(clips: Search, index: int) -> tuple[float, float]:
    """Return a model's clip points."""
    return _value(clips, 2 * index), _value(clips, 2 * index + 1)


def _floor(found: Found, index: int) -> float:
    """Return the score from which a model's weights rise."""
    assert found.scores is not None
    floor = _value(found.scores, index)
    return -_value(found.negatives, index) if floor == 0 and found.negatives is not None else floor


def _sum(x: Chunk) -> Tensor:
    """Return Σ τ in a scratch buffer."""
    total, delta = x.scratch(_SUM).zero_(), x.scratch(_DELTA)
    for index in range(len(x.models)):
        total.add_(subtract(x, index, delta))
    return total


def _score(x: Chunk, index: int, clips: Search, total: Tensor) -> Tensor:
    """Return a model's β in a scratch buffer, rounded to float32: as exact as its order statistics."""
    import torch

    delta, beta = subtract(x, index, x.scratch(_DELTA)), x.scratch(_BETA)
    low, high = _ends(clips, index)
    if high > low:
        torch.abs(delta, out=beta).clamp_(low, high).sub_(low).div_(high - low)
        beta.square_().mul_(len(x.models)).exp_()
    else:
        beta.fill_(1)
    beta.mul_(delta.mul_(total).tanh_())
    return beta if beta.element_size() == 4 else beta.copy_(beta.float())
