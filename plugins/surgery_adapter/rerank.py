"""adapter.rerank: an adapter of another rank, the nearest there is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._config import described
from surgery_adapter._pairs import Pairs, Rank, Stored, check, core_bytes, rank_in, sized

if TYPE_CHECKING:
    from torch import Tensor


class Rerank(Stored):
    """Parameters of adapter.rerank."""

    rank: Rank
    """Ranks that are kept; modules that have no more stay as they are."""


def _rank(signature: Signature, p: Rerank) -> int:
    return min(p.rank, rank_in(signature.first))


def _sized(signature: Signature, p: Rerank) -> TensorSpec:
    return sized(signature, _rank(signature, p), p)


def _same(signature: Signature, p: Rerank) -> int | None:
    return 0 if p.rank >= rank_in(signature.first) else None


def _workspace(signature: Signature, p: Rerank) -> int:
    return core_bytes(signature)


@op(
    "adapter.rerank",
    split=Split.GROUP,
    params=Rerank,
    models=1,
    takes=Space.FACTORS,
    gives=Space.FACTORS,
    shapes="any",
    infer=_sized,
    simplify=_same,
    check=check,
    describe=partial(described, rank_of=_rank),
    workspace=_workspace,
    cite="Eckart, Young 1936, The approximation of one matrix by another of lower rank",
)
class RerankOp(Pairs):
    """Cut an adapter to a lower rank: the nearest ΔW of that rank, without ever making ΔW.

    B = Q_b·R_b and Aᵀ = Q_a·R_a, then the singular values of the small R_b·R_aᵀ: those of ΔW. The error is the root
    of the dropped Σσ². The roots of the singular values go to both factors. In float64.
    """

    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Rerank
    ) -> tuple[Tensor, Tensor]:
        """Return the cut factors."""
        from surgery_adapter._core import balanced, core_of

        found = core_of(As, Bs)
        return balanced(found.cores[0], found.U, found.V, params.rank)
