"""adapter.lego: adapters taken apart into single directions, and put together again from those that are alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from surgery.ops import Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._config import described
from surgery_adapter._pairs import Pairs, Rank, Stored, Weighted, check, longest, rank_in, sized

if TYPE_CHECKING:
    from torch import Tensor


class Lego(Stored):
    """Parameters of adapter.lego."""

    rank: Rank | None = None
    """Clusters, and so the rank of the result; by default the largest of the adapters'."""

    reweight: Literal["both", "norm", "none"] = "both"
    """`norm`: a mean gets the mean length of its members; `both`: and the result is times √(mean rank/rank)."""

    restarts: Annotated[int, Field(ge=1)] = 10
    """Runs of k-means, of which the best counts."""

    seed: Annotated[int, Field(ge=0)] = 0
    """What the runs begin from."""


def _rank(signature: Signature, p: Lego) -> int:
    return p.rank or max(rank_in(spec) for spec in signature.models)


def _sized(signature: Signature, p: Lego) -> TensorSpec:
    return sized(signature, _rank(signature, p), p)


def _workspace(signature: Signature, p: Lego) -> int:
    """Return one factor's share of the temporaries of its pair: its directions some times, and their Gram matrix."""
    units = sum(rank_in(spec) for spec in signature.models)
    return 8 * units * (6 * longest(signature) + 6 * units)


@op(
    "adapter.lego",
    split=Split.GROUP,
    params=Lego,
    each=Weighted,
    takes=Space.FACTORS,
    gives=Space.FACTORS,
    shapes="any",
    infer=_sized,
    check=check,
    describe=partial(described, rank_of=_rank),
    workspace=_workspace,
    cite=(
        "Zhao et al. 2024, Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes Through "
        "Rank-Wise Clustering, arXiv:2409.16167"
    ),
)
class LegoOp(Pairs):
    """Cluster the rank-one parts of all adapters, b·aᵀ each, and keep the mean of every cluster.

    Parts of one meaning, in whichever adapter, become one; others stay apart. A part is the vector [b; a] with
    ‖b‖ = ‖a‖ and the largest number of a positive, for b·aᵀ is the same if one is stretched by what the other shrinks.
    With as many clusters as parts it is `adapter.concat`, but for `reweight: both`. Both weights follow the paper's
    argument: a mean is shorter than its members, and the sum of k parts varies √k times as much as one. In float64.
    """

    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the factors made of the clusters' means."""
        import torch

        from surgery_adapter._clusters import clustered
        from surgery_adapter._factors import filled

        rank = params.rank or max(len(A) for A in As)
        A = torch.cat([A.double() for A in As])
        B = torch.cat([B.double() * w for B, w in zip(Bs, weights, strict=True)], 1).T
        parts = _in_order(*_canonical(A, B))
        count = min(rank, len(parts))
        labels = torch.arange(count, device=A.device)
        if 0 < count < len(parts):
            labels = clustered(parts @ parts.T, count, params.restarts, params.seed)
        means = _means(parts, labels, reweight=params.reweight != "none")
        if params.reweight == "both":
            means *= math.sqrt(len(A) / len(As) / rank) ** 0.5  # the root in both factors
        return filled(means[:, B.shape[1] :], means[:, : B.shape[1]].T, rank)


def _canonical(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return directions a [n, in] and b [n, out] of equal lengths, the largest number of each a positive; no zeros."""
    import torch

    a, b = (torch.linalg.vector_norm(M, dim=1, keepdim=True) for M in (A, B))
    there = ((a > 0) & (b > 0))[:, 0]
    A, B, ratio = A[there], B[there], (b / a)[there].sqrt()
    largest = A.gather(1, A.abs().argmax(1, keepdim=True)) if len(A) else A[:, :1]
    sign = torch.where(largest < 0, -1.0, 1.0).to(A.dtype)
    return A * (ratio * sign), B * (sign / ratio)


def _in_order(A: Tensor, B: Tensor) -> Tensor:
    """Return the parts [b; a], the longest first: what comes of them must not depend on whose they are."""
    import torch

    parts = torch.cat([B, A], 1)
    lengths = torch.linalg.vector_norm(parts, dim=1)
    return parts[torch.sort(lengths, descending=True, stable=True).indices]


def _means(parts: Tensor, labels: Tensor, *, reweight: bool) -> Tensor:
    """Return every cluster's mean, if asked to with the mean length of its members."""
    import torch

    shares = (labels[:, None] == torch.unique(labels)).to(parts.dtype)
    shares = (shares / shares.sum(0)).T
    means: Tensor = shares @ parts
    if not reweight:
        return means
    lengths = torch.linalg.vector_norm(means, dim=1)
    wanted = shares @ torch.linalg.vector_norm(parts, dim=1)
    means *= (wanted / torch.where(lengths == 0, 1.0, lengths))[:, None]
    return means
