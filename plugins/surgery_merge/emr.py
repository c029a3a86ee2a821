"""merge.emr: the unified model of EMR: for each element a sign, and the largest change that has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import lacks_base, subtract

if TYPE_CHECKING:
    from torch import Tensor

CITE = "Huang et al. 2024, EMR-Merging: Tuning-Free High-Performance Model Merging, arXiv:2405.17461"


class Emr(Params):
    """Parameters of merge.emr."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the unified delta; merge.emr_task needs 1."""


def _same(signature: Signature, p: Emr) -> int | None:
    """Return the base when nothing is added, or the only model when it is added whole."""
    if p.lambda_ == 0:
        return BASE
    return 0 if p.lambda_ == 1 and len(signature.models) == 1 else None


@op(
    "merge.emr",
    params=Emr,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    propagates=True,
    buffers=3,
    cite=CITE,
)
def emr(x: Chunk, p: Emr) -> Tensor:
    """Elect a sign for each element and keep the largest change that has it: θ0 + λ·σ·max{|τ_t| : σ·τ_t > 0}.

    σ is the sign of Σ τ_t; as in the paper's code a sum of exactly 0 elects the negative changes. What the paper serves
    for one task is this model seen through the task's mask and scale: merge.emr_task.
    """
    import torch

    total, delta = x.out, x.scratch(0)
    highest, lowest = x.scratch(1).zero_(), x.scratch(2).zero_()
    total.zero_()
    for index in range(len(x.models)):
        total.add_(subtract(x, index, delta))
        torch.maximum(highest, delta, out=highest)
        torch.minimum(lowest, delta, out=lowest)
    positive = torch.gt(total, 0, out=delta)  # 1 or 0: multiplying is exact, and faster than `where`
    torch.mul(highest, positive, out=total)
    total.add_(lowest.mul_(torch.eq(positive, 0, out=positive)))
    assert x.base is not None
    return torch.add(x.base, total, alpha=p.lambda_, out=total)
