"""adapter.concat: several adapters as one whose change is exactly their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_adapter._config import described
from surgery_adapter._pairs import Pairs, Stored, Weighted, check, rank_in, sized

if TYPE_CHECKING:
    from torch import Tensor


class Concat(Stored):
    """Parameters of adapter.concat."""


def _rank(signature: Signature, p: Concat) -> int:
    return sum(rank_in(spec) for spec in signature.models)


def _sized(signature: Signature, p: Concat) -> TensorSpec:
    return sized(signature, _rank(signature, p), p)


@op(
    "adapter.concat",
    split=Split.GROUP,
    params=Concat,
    each=Weighted,
    takes=Space.FACTORS,
    gives=Space.FACTORS,
    shapes="any",
    infer=_sized,
    check=check,
    describe=partial(described, rank_of=_rank),
    cite="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",
)
class ConcatOp(Pairs):
    """Put adapters side by side: ΔW = Σ w·B_t·A_t, of rank Σ r_t and exact.

    A = [A_1; …; A_T] and B = [w_1·B_1 … w_T·B_T]; the scales of the adapters are in B already. Ranks may differ. With
    `missing: skip` modules that only some adapters have are those adapters' alone. Weights go to B, so that none is
    taken a root of: they may be negative.
    """

    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Concat
    ) -> tuple[Tensor, Tensor]:
        """Return the stacked factors."""
        import torch

        return torch.cat(list(As)), torch.cat([B * w for B, w in zip(Bs, weights, strict=True)], 1)
