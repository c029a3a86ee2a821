"""merge.extrapolate: beyond a trained model, along the way that it came from its base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from surgery.ops import BASE, Chunk, Params, op
from surgery.scalars import Scalar
from surgery_merge._common import lacks_base, subtract

if TYPE_CHECKING:
    from torch import Tensor


class Extrapolate(Params):
    """Parameters of merge.extrapolate."""

    alpha: Scalar = 0.3
    """How much further, in steps from the base to the model: 0 is the model, -1 the base; the paper has 0.3 to 0.5."""


# Where nothing has to be computed: the input that each alpha gives.
_ENDS: Final = {0.0: 0, -1.0: BASE}


@op(
    "merge.extrapolate",
    params=Extrapolate,
    models=1,
    base="required",
    simplify=lambda signature, p: _ENDS.get(p.alpha),
    check=lambda signature, p: lacks_base(signature),
    propagates=True,
    cite="Zheng et al. 2024, Model Extrapolation Expedites Alignment, arXiv:2404.16792",
)
def extrapolate(x: Chunk, p: Extrapolate) -> Tensor:
    """Go on where training stopped: θ + α·(θ - θ0).

    θ0 is the model that training began with (for ExPO the one after supervised fine-tuning), θ the one after it. The
    same as merge.task_arithmetic with a weight of 1 + α, but the model's own digits are kept: the difference is
    added to it, not to the base.
    """
    import torch

    further = subtract(x, 0, x.out)
    return torch.add(x.models[0], further, alpha=p.alpha, out=x.out)
