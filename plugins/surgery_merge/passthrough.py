"""merge.passthrough: one model as it is, or scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, Params, Signature, op
from surgery.scalars import Scalar

if TYPE_CHECKING:
    from torch import Tensor


class Passthrough(Params):
    """Parameters of merge.passthrough."""

    scale: Scalar | None = None
    """Factor of the weights; none copies them byte by byte."""


def _same(signature: Signature, p: Passthrough) -> int | None:
    return 0 if p.scale in (None, 1) else None


@op(
    "merge.passthrough",
    params=Passthrough,
    models=1,
    simplify=_same,
    propagates=True,
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257",
)
def passthrough(x: Chunk, p: Passthrough) -> Tensor:
    """Copy a model, or scale it: s·θ.

    Without `scale`, or with 1, the bytes are copied. A scale of 0 on `attention.o` and `mlp.down` of a repeated
    layer makes that layer the identity.
    """
    import torch

    assert p.scale is not None
    return torch.mul(x.models[0], p.scale, out=x.out)
