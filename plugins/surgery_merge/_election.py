"""One sign for each element, elected by the deltas, and the mean of those that agree. TIES and DARE-TIES share it.

    d_t = ballot_t·τ̂_t        σ = +1 where Σ d_t ≥ 0, else -1        m_t = [sign d_t = σ], zeros never agree
    out = θ0 + λ·σ·Σ m_t·|gain_t·τ̂_t| / Σ m_t·share_t

Three tools weight differently; here that is data:

    mergekit  ballot = gain = share = w     weighted deltas vote, the sum of the agreeing weights divides
    PEFT      ballot = share = 1, gain = w  plain deltas vote, the number of agreeing models divides
    paper     no weights: both of the above with w = 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from surgery.ops import Chunk

if TYPE_CHECKING:
    from torch import Tensor

Elect = Literal["mass", "count"]

BUFFERS: Final = 3  # scratch buffers of a chunk that `elected` uses


@dataclass(frozen=True, slots=True)
class Voter:
    """One model's part in an election; `write` puts its delta into a buffer, again each time it is called."""

    write: Callable[[Tensor], object]
    ballot: float
    gain: float
    share: float


def elected(x: Chunk, voters: Sequence[Voter], *, elect: Elect, normalize: bool, scale: float) -> Tensor:
    """Return base + scale·(mean or sum of the deltas that agree with the elected sign), in `x.out`.

    A sum of exactly 0 elects +1, as in mergekit and PEFT. Every delta is written twice rather than kept: the
    buffers stay few, however many models there are.
    """
    import torch

    base = x.base
    assert base is not None
    voters = [voter for voter in voters if voter.ballot != 0]
    sign = _sign(x, voters, elect)
    out = _agreeing(x, voters, sign, normalize=normalize)
    out.mul_(sign)
    return torch.add(base, out, alpha=scale, out=out)


def _sign(x: Chunk, voters: Sequence[Voter], elect: Elect) -> Tensor:
    """Return the elected signs, +1 or -1, in scratch buffer 0."""
    import torch

    sign, delta = x.scratch(0), x.scratch(1)
    sign.zero_()  # +0: a sum that cancels then stays +0 and elects +1
    for voter in voters:
        voter.write(delta)
        if elect == "count":
            sign.add_(delta.sign_(), alpha=1.0 if voter.ballot > 0 else -1.0)
        else:
            sign.add_(delta, alpha=voter.ballot)
    one = torch.ones((), dtype=sign.dtype, device=sign.device)
    return torch.copysign(one, sign, out=sign)


def _agreeing(x: Chunk, voters: Sequence[Voter], sign: Tensor, *, normalize: bool) -> Tensor:
    """Return Σ m·gain·τ̂·σ, divided by Σ m·share if `normalize`, in `x.out`."""
    out, delta, total = x.out.zero_(), x.scratch(1), x.scratch(2)
    total.zero_()
    for voter in voters:
        voter.write(delta)
        delta.mul_(sign)
        # what is left is where ballot·τ̂ has the elected sign
        if voter.ballot > 0:
            delta.clamp_(min=0)
        else:
            delta.clamp_(max=0)
        out.add_(delta, alpha=voter.gain)
        if normalize:
            total.add_(delta.sign_(), alpha=voter.share if voter.ballot > 0 else -voter.share)
    if normalize:
        _divide(out, total, min((voter.share for voter in voters), default=1.0))
    return out


def _divide(out: Tensor, total: Tensor, least: float) -> None:
    """Divide in place; where nobody agrees `out` is 0 and stays so."""
    if least > 0:
        out.div_(total.clamp_(min=least))
    else:  # shares of both signs may cancel: mergekit divides by 1 there
        out.div_(total.masked_fill_(total == 0, 1.0))
