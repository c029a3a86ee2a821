"""merge.metagpt: a sum of deltas whose weights are the shares of their squared norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgery.ops import BASE, Chunk, Params, Reduce, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import add_deltas, lacks_base
from surgery_merge._norms import fold, squares, sums
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor


class Metagpt(Params):
    """Parameters of merge.metagpt."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of the merged delta."""

    scope: Scope = "model"
    """What norms are taken over: the whole model (the paper), each layer, or each tensor."""


def _same(signature: Signature, p: Metagpt) -> int | None:
    """Return the base when nothing is added, or the only model: its share is 1."""
    if p.lambda_ == 0:
        return BASE
    return 0 if p.lambda_ == 1 and len(signature.models) == 1 else None


@op(
    "merge.metagpt",
    split=split_of,
    splits=SPLITS,
    params=Metagpt,
    base="required",
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    pool=pool_of,
    propagates=True,
    buffers=1,
    cite=(
        "Zhou et al. 2024, MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic, "
        "arXiv:2406.11385"
    ),
)
class MetagptOp(Reduce):
    """Add task vectors, each weighted by its share of the squared norms: θ0 + λ·Σ w_t·τ_t, w_t = ‖τ_t‖²/Σ‖τ‖².

    Norms are taken over all tensors that the step works on (with `scope: layer`, those outside layers count as one
    layer), summed in float64. Needs no data and no search. The base is the result where no model changed anything.
    """

    def gather(self, x: Chunk, p: Metagpt, found: None) -> list[list[float]]:
        """Return the squared norm of every model's delta over a block; uses scratch buffer 0."""
        return squares(x)

    def fold(self, total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
        """Collect the blocks' norms."""
        return fold(total, part)

    def solve(
        self, signature: Signature, p: Metagpt, total: list[list[float]], found: None
    ) -> list[float] | None:
        """Return every model's share; None where nothing changed."""
        squared = sums(total)
        whole = sum(squared)
        return [one / whole for one in squared] if whole else None

    def rests_on(self, signature: Signature, p: Metagpt) -> str:
        """Return the scope: lambda decides nothing before `apply`."""
        return p.scope

    def apply(self, x: Chunk, p: Metagpt, found: list[float] | None) -> Tensor:
        """Return the merged range."""
        if found is None:
            assert x.base is not None
            return x.out.copy_(x.base)
        return add_deltas(x, found, p.lambda_)
