"""merge.ramplus: merge.ram that makes up for what sharing dilutes by scaling up what is a model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from surgery.ops import Chunk, Scan, Signature, op
from surgery.scalars import Scalar
from surgery_merge._active import Active, Cutoffs, changes, count, cutoffs, same
from surgery_merge._common import lacks_base
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor


class RamPlus(Active):
    """Parameters of merge.ramplus."""

    r: Scalar = 0.1
    """How much a model's own changes grow for each change that it shares with others, per change of its own."""

    alpha: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    """The ratio of shared to own changes counts up to this."""

    scope: Scope = "tensor"
    """Where changes are counted: in each tensor (mergekit), in each layer, or in the whole model (the paper)."""


@dataclass(frozen=True, slots=True)
class Found:
    """Each model's epsilon (None: the recipe's) and, once they are counted, its own and its shared changes."""

    epsilons: list[float] | None
    counts: Sequence[tuple[int, int]] | None = None


@op(
    "merge.ramplus",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=RamPlus,
    base="required",
    simplify=same,
    check=lambda signature, p: lacks_base(signature),
    buffers=3,
    cite="Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models, arXiv:2601.13572",
)
class RamPlusOp(Cutoffs):
    """Add a model's own changes times 1 + r·min(ρ, α), average shared ones as merge.ram does.

    ρ is the number of a model's changes that others share over the number of those that are its own. A change is
    |τ| > ε.
    """

    def scan(self, signature: Signature, p: RamPlus, found: Found | None, done: int) -> Scan | None:
        """Read everything for epsilons that depend on the deltas, then once to count."""
        return Scan.ALL if found is None or found.counts is None else None

    def gather(self, x: Chunk, p: RamPlus, found: Found | None) -> Any:
        """Return the sums that relative epsilons need, or each model's own and shared changes."""
        import torch

        if p.epsilon == "relative" and found is None:
            return super().gather(x, p, None)
        epsilons = cutoffs(x, p, found.epsilons if found else None)
        owners, delta = count(x, epsilons, x.scratch(2)), x.scratch(0)
        counts = []
        for index, epsilon in enumerate(epsilons):
            changed = changes(x, index, epsilon, delta) != 0
            total = int(torch.count_nonzero(changed))
            own = int(torch.count_nonzero(changed.logical_and_(owners == 1)))
            counts.append((own, total - own))
        return counts

    def fold(self, total: Any, part: Any) -> Any:
        """Collect sums of squares, or add counts."""
        if isinstance(total[0], list):
            return super().fold(total, part)
        return [(own + a, shared + b) for (own, shared), (a, b) in zip(total, part, strict=True)]

    def solve(self, signature: Signature, p: RamPlus, total: Any, found: Found | None) -> Found:
        """Return the epsilons, then the counts."""
        if isinstance(total[0], list):
            return Found(super().solve(signature, p, total, None))
        return Found(found.epsilons if found else None, total)

    def rests_on(self, signature: Signature, p: RamPlus) -> float | str:
        """Return epsilon: r, alpha and lambda decide nothing before `apply`."""
        return p.epsilon

    def apply(self, x: Chunk, p: RamPlus, found: Found) -> Tensor:
        """Return the merged range: where one model counts its own sum, elsewhere the mean."""
        import torch

        assert x.base is not None
        assert found.counts is not None
        epsilons = cutoffs(x, p, found.epsilons)
        owners, out, delta = count(x, epsilons, x.scratch(2)), x.out.zero_(), x.scratch(0)
        for index, (epsilon, counts) in enumerate(zip(epsilons, found.counts, strict=True)):
            changes(x, index, epsilon, delta)
            grown = torch.mul(delta, boost(counts, p), out=x.scratch(1))
            out.add_(torch.where(owners > 1, delta, grown))
        out.div_(owners.clamp_(min=1))
        return torch.add(x.base, out, alpha=p.lambda_, out=out)


def boost(counts: tuple[int, int], p: RamPlus) -> float:
    """Return what a model's own changes are multiplied with; 1 where it has none."""
    own, shared = counts
    return 1 + p.r * min(shared / own, p.alpha) if own else 1.0
