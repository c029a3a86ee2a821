"""adapter.ema: a moving average of an adapter's states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from surgery.ops import Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._config import described
from surgery_adapter._pairs import Pairs, Rank, Stored, check, core_bytes, rank_in, sized

if TYPE_CHECKING:
    from torch import Tensor


class Ema(Stored):
    """Parameters of adapter.ema."""

    beta: Annotated[float, Field(ge=0, le=1)]
    """Share of what was before that stays with every adapter that comes: old·β + new·(1-β)."""

    mode: Literal["dense", "factors"] = "dense"
    """`dense`: of the changes B·A; `factors`: of A and of B, each by itself, as trainers do that hold factors."""

    rank: Rank | None = None
    """Rank of the result of `dense`; by default the largest of the adapters'."""


def _rank(signature: Signature, p: Ema) -> int:
    return p.rank or max(rank_in(spec) for spec in signature.models)


def _sized(signature: Signature, p: Ema) -> TensorSpec:
    return sized(signature, _rank(signature, p), p)


def _same(signature: Signature, p: Ema) -> int | None:
    """Return the first adapter of β = 1, the last of β = 0, where no rank is cut and none lacks the module."""
    if signature.places or p.beta not in (0, 1):
        return None
    index = 0 if p.beta == 1 else len(signature.models) - 1
    return index if _rank(signature, p) >= rank_in(signature.models[index]) else None


def _check(signature: Signature, p: Ema) -> str | None:
    wrong = check(signature, p)
    if wrong or p.mode == "dense":
        return wrong
    ranks = [rank_in(spec) for spec in signature.models]
    if len(set(ranks)) > 1:
        return f"factors of ranks {' and '.join(map(str, ranks))} have no average; use `mode: dense`"
    return "`mode: factors` keeps the rank; leave `rank` out" if p.rank not in (None, ranks[0]) else None


def _workspace(signature: Signature, p: Ema) -> int:
    return core_bytes(signature)


@op(
    "adapter.ema",
    split=Split.GROUP,
    params=Ema,
    models=(2, None),
    ordered=True,
    takes=Space.FACTORS,
    gives=Space.FACTORS,
    shapes="any",
    infer=_sized,
    simplify=_same,
    check=_check,
    describe=partial(described, rank_of=_rank),
    workspace=_workspace,
    cite=(
        "Polyak, Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; "
        "Tarvainen, Valpola 2017, Mean teachers are better role models, arXiv:1703.01780"
    ),
)
class EmaOp(Pairs):
    """Average an adapter's states, the oldest first: e = e·β + new·(1-β), beginning with the first.

    The changes themselves are averaged in a common basis and cut to `rank`, exactly where that is the sum of the ranks.
    `mode: factors` averages A and B apart, which is cheap and another thing: (ΣwB)·(ΣwA) has cross terms, and means
    something for states of one training run only. With `missing: skip` a state without the module has no change there.
    """

    def weights(self, signature: Signature, params: Ema) -> Sequence[float]:
        """Return β^(T-1) for the first of T adapters, (1-β)·β^(T-1-t) for the others."""
        places = [signature.place(index) for index in range(len(signature.models))]
        last = max(places)
        return [params.beta ** (last - t) * (1 if t == 0 else 1 - params.beta) for t in places]

    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the averaged factors."""
        from surgery_adapter._combine import linear
        from surgery_adapter._core import balanced, core_of

        if params.mode == "factors":
            A, B = (linear([M.double() for M in Ms], weights, normalize=False) for Ms in (As, Bs))
            return A, B
        found = core_of(As, Bs)
        rank = params.rank or max(len(A) for A in As)
        return balanced(linear(found.cores, weights, normalize=False), found.U, found.V, rank)
