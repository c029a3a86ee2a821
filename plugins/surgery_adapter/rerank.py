"""adapter.rerank: an adapter of another rank, the nearest there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from surgery.notes import note_energy
from surgery.ops import Chunk, Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._config import described
from surgery_adapter._pairs import Pairs, Rank, Side, Stored, check, core_bytes, rank_in, side_of, sized

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
    of the dropped Σσ². The roots of the singular values go to both factors. In float64. The report tells the `energy`
    of every module, the share of Σσ² that is kept.
    """

    def apply(self, members: Mapping[str, Chunk], params: Any) -> Mapping[str, Tensor]:
        """Return both cut factors, and note beside A what they keep."""
        made = super().apply(members, params)
        a, b = (next(name for name in members if side_of(name) is side) for side in Side)
        before = _squares(members[a].models[0], members[b].models[0])
        note_energy(members[a], _squares(made[a], made[b]), before)
        return made

    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Rerank
    ) -> tuple[Tensor, Tensor]:
        """Return the cut factors."""
        from surgery_adapter._core import balanced, core_of

        found = core_of(As, Bs)
        return balanced(found.cores[0], found.U, found.V, params.rank)


def _squares(A: Tensor, B: Tensor) -> float:
    """Return ‖B·A‖² of two factors without making their product: tr(BᵀB·AAᵀ)."""
    A, B = A.flatten(1).double(), B.flatten(1).double()
    return float(((B.T @ B) * (A @ A.T)).sum())
