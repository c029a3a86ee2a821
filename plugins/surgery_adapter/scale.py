"""adapter.scale: an adapter's change times a number."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Chunk, Params, Signature, Space, op
from surgery.scalars import Scalar
from surgery_adapter._config import described
from surgery_adapter._pairs import Side, check, rank_in, side_of

if TYPE_CHECKING:
    from torch import Tensor


class Scale(Params):
    """Parameters of adapter.scale."""

    factor: Scalar
    """What the change is multiplied by; below 0 it is taken back."""


def _same(signature: Signature, p: Scale) -> int | None:
    return 0 if side_of(signature.name) is Side.A or p.factor == 1 else None


def _rank(signature: Signature, p: Scale) -> int:
    return rank_in(signature.first)


@op(
    "adapter.scale",
    params=Scale,
    models=1,
    takes=Space.FACTORS,
    gives=Space.FACTORS,
    simplify=_same,
    check=check,
    describe=partial(described, rank_of=_rank, pairs=False),
    propagates=True,
    cite="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",
)
def scale(x: Chunk, p: Scale) -> Tensor:
    """Multiply an adapter's change by a number: B·c, A stays as it is."""
    import torch

    return torch.mul(x.models[0], p.factor, out=x.out)
