"""merge.ram: what one model alone changed is kept whole, what several changed is averaged over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, Split, op
from surgery_merge._active import Active, Cutoffs, changes, cutoffs, same
from surgery_merge._common import lacks_base

if TYPE_CHECKING:
    from torch import Tensor


class Ram(Active):
    """Parameters of merge.ram."""


@op(
    "merge.ram",
    split=lambda p: Split.REDUCE if p.epsilon == "relative" else Split.ELEMENT,
    splits=(Split.ELEMENT, Split.REDUCE),
    params=Ram,
    base="required",
    simplify=same,
    check=lambda signature, p: lacks_base(signature),
    buffers=3,
    cite="Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models, arXiv:2601.13572",
)
class RamOp(Cutoffs):
    """Add changes that only one model made, average the others: θ0 + λ·Σ a·τ / max(1, Σ a), a = [|τ| > ε].

    The deltas of models tuned by reinforcement are sparse and seldom overlap: a mean over all models would shrink what
    one of them learned. An epsilon of 0 counts every difference, as bfloat16 checkpoints want it, in which the least
    difference is large.
    """

    def apply(self, x: Chunk, p: Ram, found: list[float] | None) -> Tensor:
        """Return the merged range."""
        import torch

        assert x.base is not None
        out, count = x.out.zero_(), x.scratch(2).zero_()
        delta, active = x.scratch(0), x.scratch(1)
        for index, epsilon in enumerate(cutoffs(x, p, found)):
            out.add_(changes(x, index, epsilon, delta))
            count.add_(torch.ne(delta, 0, out=active))
        out.div_(count.clamp_(min=1))
        return torch.add(x.base, out, alpha=p.lambda_, out=out)
