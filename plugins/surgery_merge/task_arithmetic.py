"""merge.task_arithmetic: the base plus a weighted sum of what the models learned."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import Weighted, add_deltas, lacks_base, sum_is_zero, weights_of

if TYPE_CHECKING:
    from torch import Tensor


class TaskArithmetic(Params):
    """Parameters of merge.task_arithmetic."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the sum of all deltas; the paper finds about 0.3 for eight tasks."""

    normalize: bool = False
    """Divide the sum by the sum of the weights."""


def _scale(signature: Signature, p: TaskArithmetic) -> float:
    return p.lambda_ / math.fsum(weights_of(signature)) if p.normalize else p.lambda_


def _same(signature: Signature, p: TaskArithmetic) -> int | None:
    """Return the base when nothing is added, or the one model that is added whole: θ0 + (θ1 - θ0) rounds."""
    weights = weights_of(signature)
    adding = [index for index, weight in enumerate(weights) if weight != 0]
    if p.lambda_ == 0 or not adding:
        return BASE
    whole = len(adding) == 1 and weights[adding[0]] * _scale(signature, p) == 1
    return adding[0] if whole else None


@op(
    "merge.task_arithmetic",
    params=TaskArithmetic,
    each=Weighted,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature) or sum_is_zero(signature, normalize=p.normalize),
    propagates=True,
    buffers=1,
    cite="Ilharco et al. 2023, Editing Models with Task Arithmetic, arXiv:2212.04089, section 2",
)
def task_arithmetic(x: Chunk, p: TaskArithmetic) -> Tensor:
    """Add task vectors: θ0 + λ·Σ w·(θ - θ0), divided by Σ w if `normalize`.

    Summed in the sorted order of the models' names. Negative weights negate a task.
    """
    return add_deltas(x, weights_of(x.signature), _scale(x.signature, p))
