"""merge.transplant: part of one model put into another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, Params, Signature, op
from surgery.scalars import Share

if TYPE_CHECKING:
    from torch import Tensor


class Transplant(Params):
    """Parameters of merge.transplant."""

    alpha: Share = 1.0
    """How much of the second model: 0 leaves the first as it is, 1 copies the second's bytes."""


def _same(signature: Signature, p: Transplant) -> int | None:
    """Return the model that is taken whole; one that alone has a tensor gives it."""
    if len(signature.models) == 1:
        return 0
    return int(p.alpha) if p.alpha in (0, 1) else None


@op(
    "merge.transplant",
    params=Transplant,
    models=2,
    ordered=True,
    simplify=_same,
    propagates=True,
    cite="Huang et al. 2023, Train 'n Trade: Foundations of Parameter Markets, arXiv:2312.04740",
)
def transplant(x: Chunk, p: Transplant) -> Tensor:
    """Move the first model's tensors towards the second's: (1 - α)·θ1 + α·θ2, where `where:` says.

    What `where:` does not select is the first model's, byte by byte, as are config.json and tokenizer. The models must
    share their space: fine-tunes of one base, or aligned to each other beforehand.
    """
    import torch

    first, second = x.models
    return torch.add(first, torch.sub(second, first, out=x.out), alpha=p.alpha, out=x.out)
