"""merge.nearswap: towards a model, no element by more than t."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from surgery.ops import BASE, Chunk, Params, Signature, op
from surgery.scalars import Schedulable
from surgery_merge._common import lacks_base

if TYPE_CHECKING:
    from torch import Tensor


class Nearswap(Params):
    """Parameters of merge.nearswap."""

    t: Annotated[float, Schedulable(ge=0)]
    """How far an element may move from the base, in units of the weights; those that are nearer become the model's."""


def _same(signature: Signature, p: Nearswap) -> int | None:
    return BASE if p.t == 0 else None


@op(
    "merge.nearswap",
    params=Nearswap,
    base="required",
    models=1,
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    buffers=1,
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257",
)
def nearswap(x: Chunk, p: Nearswap) -> Tensor:
    """Move each weight of the base towards the model's by at most t: θ0 + clamp(θ - θ0, -t, t).

    Where both are within t of each other the result is the model's weight to the last bit.
    """
    import torch

    assert x.base is not None
    lowest = torch.sub(x.base, p.t, out=x.scratch(0))
    highest = torch.add(x.base, p.t, out=x.out)
    return torch.clamp(x.models[0], lowest, highest, out=x.out)
