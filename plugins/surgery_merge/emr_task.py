"""merge.emr_task: what EMR makes of its unified model for one task: a mask and a scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from surgery.ops import Chunk, Params, Reduce, Signature, op
from surgery_merge._common import lacks_base, scaled, subtract
from surgery_merge._mass import mass
from surgery_merge._norms import fold, sums
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of
from surgery_merge.emr import CITE

if TYPE_CHECKING:
    from torch import Tensor


class EmrTask(Params):
    """Parameters of merge.emr_task."""

    scope: Scope = "model"
    """What one scale is for: the whole model (the paper), each layer, or each tensor."""

    sums: Literal["elements", "means"] = "elements"
    """Is the scale a ratio of sums over all elements (the paper's formula), or of sums of tensors' means (its code)?"""


@op(
    "merge.emr_task",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=EmrTask,
    base="required",
    models=2,
    ordered=True,
    simplify=lambda signature, p: 0 if len(signature.models) == 1 else None,
    check=lambda signature, p: lacks_base(signature),
    buffers=2,
    cite=CITE,
)
class EmrTaskOp(Reduce):
    """Show the unified model to one task: θ0 + s·m·τ_u, m = [τ_t·τ_u > 0], s = Σ|τ_t| / Σ|m·τ_u|.

    The first model is what merge.emr made (τ_u is its delta), the second is the task's own model. The mask keeps what
    has the task's sign; the scale gives what is left the mass of the task's own delta. A task that agrees nowhere
    is given the base.
    """

    def gather(self, x: Chunk, p: EmrTask, found: None) -> list[list[float]]:
        """Return Σ|τ_t| and Σ|m·τ_u| over a block, or their shares of the tensor's means."""
        share = x.signature.first.numel if p.sums == "means" else 1
        own = mass(subtract(x, 1, x.scratch(0)), x.scratch(1))
        return [[own / share], [mass(_masked(x), x.scratch(0)) / share]]

    def fold(self, total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
        """Collect the blocks' sums."""
        return fold(total, part)

    def solve(self, signature: Signature, p: EmrTask, total: list[list[float]], found: None) -> float:
        """Return the scale; 1 where nothing is left to scale."""
        own, left = sums(total)
        return own / left if left else 1.0

    def apply(self, x: Chunk, p: EmrTask, found: float | None) -> Tensor:
        """Return the range as the task sees it."""
        assert x.base is not None
        return scaled(_masked(x), 1.0 if found is None else found).add_(x.base)


def _masked(x: Chunk) -> Tensor:
    """Return m·τ_u in `x.out`; uses scratch buffer 0."""
    import torch

    unified, own = subtract(x, 0, x.out), subtract(x, 1, x.scratch(0))
    own.sign_().mul_(unified)  # a product of both could be too small for float32
    return unified.mul_(torch.gt(own, 0, out=own))
