"""One sign for each element, elected by the deltas, and the mean of those that agree. TIES and DARE-TIES share it.

    d_t = ballot_t·τ̂_t        σ = +1 where Σ d_t ≥ 0, else -1        m_t = [sign d_t = σ], zeros never agree
    out = θ0 + λ·σ·Σ m_t·|gain_t·τ̂_t| / Σ m_t·share_t

Three tools weight differently; here that is data:

    mergekit  ballot = gain = share = w     weighted deltas vote, the sum of the agreeing weights divides
    PEFT      ballot = share = 1, gain = w  plain deltas vote, the number of agreeing models divides
    paper     no weights: both of the above with w = 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from surgery.ops import Chunk
from surgery_merge._common import scaled

if TYPE_CHECKING:
    from torch import Tensor

Elect = Literal["mass", "count"]

BUFFERS: Final = 3  # scratch buffers of a chunk that `elected` uses


@dataclass(frozen=True, slots=True)
class Voter:
    """One model's part in an election.

    `write` puts its delta into a buffer, again each time it is called; of that, |x| <= `cutoff` counts as 0.
    """

    write: Callable[[Tensor], object]
    ballot: float
    gain: float
    share: float
    cutoff: float = 0.0


def elected(
    x: Chunk, voters: Sequence[Voter], *, elect: Elect, normalize: bool, scale: float, zero: int = 1
) -> Tensor:
    """Return base + scale·(mean or sum of the deltas that agree with the elected sign), in `x.out`.

    A sum of exactly 0 elects `zero`: +1 as in mergekit and PEFT, or -1. Every delta is written twice rather than kept:
    the buffers stay few, however many models there are.
    """
    import torch

    base = x.base
    assert base is not None
    out = agreed(x, voters, elect=elect, normalize=normalize, zero=zero)
    return x.out.copy_(base) if out is None else torch.add(base, out, alpha=scale, out=out)


def agreed(
    x: Chunk, voters: Sequence[Voter], *, elect: Elect, normalize: bool, zero: int = 1
) -> Tensor | None:
    """Return the mean or sum of the deltas that agree with the elected sign, in `x.out`; None if nobody votes."""
    voters = [voter for voter in voters if voter.ballot != 0]
    if not voters:
        return None
    if normalize and len({(voter.ballot, voter.gain, voter.share) for voter in voters}) == 1:
        voters = _plain(voters)
    sign = _sign(x, voters, elect, zero)
    return _agreeing(x, voters, sign, normalize=normalize).mul_(sign)


def _plain(voters: Sequence[Voter]) -> list[Voter]:
    """Cancel a weight that all have: the mean is the same, in fewer passes and roundings."""
    return [
        replace(voter, ballot=math.copysign(1, voter.ballot), gain=voter.gain / voter.share, share=1.0)
        for voter in voters
    ]


def majority(x: Chunk, voters: Sequence[Voter], *, elect: Elect) -> int:
    """Return how many more elements elect +1 than -1; where a sum is 0 none is elected. Uses scratch 0 and 1."""
    voters = [voter for voter in voters if voter.ballot != 0]
    if not voters:
        return 0
    votes = _ballots(x, voters, elect)
    return int((votes > 0).sum()) - int((votes < 0).sum())


def _sign(x: Chunk, voters: Sequence[Voter], elect: Elect, zero: int) -> Tensor:
    """Return the elected signs, +1 or -1, in scratch buffer 0. Sums that cancel are +0 and elect `zero`."""
    import torch

    sign = _ballots(x, voters, elect)
    if zero < 0:
        sign.neg_().add_(0.0)  # +0 again, where -0 would be told from it below
    one = torch.ones((), dtype=sign.dtype, device=sign.device)
    return scaled(torch.copysign(one, sign, out=sign), zero)


def _ballots(x: Chunk, voters: Sequence[Voter], elect: Elect) -> Tensor:
    """Return the sum of the votes on each element, in scratch buffer 0."""
    import torch

    sign, delta = x.scratch(0), x.scratch(1)
    for index, voter in enumerate(voters):
        to = delta if index else sign
        voter.write(to)
        if voter.cutoff:
            torch.hardshrink(to, voter.cutoff, out=to)
        if elect == "count":
            to.sign_()
        ballot = math.copysign(1, voter.ballot) if elect == "count" else voter.ballot
        if index:
            sign.add_(delta, alpha=ballot)
        else:
            scaled(sign, ballot)
    return sign


def _agreeing(x: Chunk, voters: Sequence[Voter], sign: Tensor, *, normalize: bool) -> Tensor:
    """Return σ·Σ m·gain·τ̂, divided by Σ m·share if `normalize`, in `x.out`."""
    import torch

    out, delta, total = x.out, x.scratch(1), x.scratch(2)
    for index, voter in enumerate(voters):
        to = delta if index else out
        voter.write(to)
        to.mul_(sign)
        if voter.ballot < 0:
            to.neg_()
        torch.threshold_(to, voter.cutoff, 0)  # |τ̂| where ballot·τ̂ has the elected sign, else 0
        gain = math.copysign(voter.gain, voter.gain * voter.ballot)
        if index:
            out.add_(delta, alpha=gain)
            if normalize:
                total.add_(delta.sign_(), alpha=voter.share)
        else:
            if normalize:
                scaled(torch.sign(out, out=total), voter.share)
            scaled(out, gain)
    if normalize:
        _divide(out, total, min(voter.share for voter in voters))
    return out


def _divide(out: Tensor, total: Tensor, least: float) -> None:
    """Divide in place; where nobody agrees `out` is 0 and stays so."""
    if least > 0:
        out.div_(total.clamp_(min=least))
    else:  # shares of both signs may cancel: mergekit divides by 1 there
        out.div_(total.masked_fill_(total == 0, 1.0))
