"""merge.renorm: a merged delta as long as those that it was merged from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Reduce, Signature, op
from surgery_merge._common import add_deltas, lacks_base, subtract
from surgery_merge._norms import fold, squares, sums
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor


class Renorm(Params):
    """Parameters of merge.renorm."""

    norm: Literal["mean", "max", "average"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "mean"
    """What the merged delta's norm becomes: the mean or the largest norm of the other models' deltas, the norm of
    their average (what LiNeS starts from), or a number."""

    scope: Scope = "tensor"
    """What norms are taken over: each tensor, each layer (what lies outside layers counts as one), or the model."""


def _same(signature: Signature, p: Renorm) -> int | None:
    """Return the base where no delta is left, or where the merged model has no such tensor."""
    return BASE if p.norm == 0 or signature.place(0) != 0 else None


def _check(signature: Signature, p: Renorm) -> str | None:
    if isinstance(p.norm, str) and len(signature.models) == 1 and not signature.places:
        return (
            f"norm: {p.norm} needs models to compare with; list them behind the merged one, or give a number"
        )
    return lacks_base(signature)


@op(
    "merge.renorm",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Renorm,
    base="required",
    ordered=True,
    simplify=_same,
    check=_check,
    buffers=2,
    cite=(
        "Wang et al. 2024, LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging, "
        "arXiv:2410.17146 (`norm: average`: the first layer's scale)"
    ),
)
class RenormOp(Reduce):
    """Scale a merged delta to the norm of its parents': θ0 + s·(θ_m - θ0), s = mean ‖τ_t‖ / ‖τ_m‖.

    The first model is the merged one, those behind it are what it was merged from. Averaging makes deltas shorter,
    adding up makes them longer; this undoes it. Frobenius norms, summed in float64. A merged delta of zeros stays.
    LiNeS is `norm: average, scope: model`, then merge.task_arithmetic with a ramp as `lambda`.
    """

    def gather(self, x: Chunk, p: Renorm, found: None) -> list[list[float]]:
        """Return the squared norm of every delta over a block, and of the parents' sum if it is wanted."""
        summed = [[_sum_squared(x)]] if p.norm == "average" and len(x.models) > 1 else []
        return squares(x) + summed

    def fold(self, total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
        """Collect the blocks' norms."""
        return fold(total, part)

    def solve(self, signature: Signature, p: Renorm, total: list[list[float]], found: None) -> float | None:
        """Return what the merged delta is multiplied with; None if it is all zeros."""
        merged, *others = (math.sqrt(squared) for squared in sums(total))
        if merged == 0:
            return None
        parents = others[: len(signature.models) - 1]
        if not isinstance(p.norm, str):
            return p.norm / merged
        if not parents:
            return 1.0  # no parent has the tensor
        return _wanted(p.norm, parents, others[-1]) / merged

    def notes(self, signature: Signature, p: Renorm, found: float) -> Mapping[str, float]:
        """Return what the merged delta is multiplied with; of NaN that are kept there is nothing to tell."""
        return {"factor": found} if math.isfinite(found) else {}

    def apply(self, x: Chunk, p: Renorm, found: float | None) -> Tensor:
        """Return the scaled range."""
        if found is None or found == 1:
            return x.out.copy_(x.models[0])
        return add_deltas(x, [found], 1.0)


def _sum_squared(x: Chunk) -> float:
    """Return the squared norm of the sum of the parents' deltas over a block; uses both scratch buffers."""
    from surgery.math.reduce import squared_norm

    total, delta = subtract(x, 1, x.scratch(0)), x.scratch(1)
    for index in range(2, len(x.models)):
        total.add_(subtract(x, index, delta))
    return squared_norm(total)


def _wanted(norm: str, parents: list[float], summed: float) -> float:
    """Return the norm that the parents call for; `summed` is that of their sum."""
    if norm == "average":
        return summed / len(parents)
    return max(parents) if norm == "max" else math.fsum(parents) / len(parents)
