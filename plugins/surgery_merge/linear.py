"""merge.linear: the weighted average of models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from surgery.ops import Chunk, Params, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import mean_of, sum_is_zero, weighted_sum, weights_of

if TYPE_CHECKING:
    from torch import Tensor

# What a plain sum of them rounds, 16-bit numbers do not show.
_WIDE: Final = frozenset({"F32", "F64"})


class Linear(Params):
    """Parameters of merge.linear."""

    normalize: bool = True
    """Divide by the sum of the weights."""


class LinearModel(Params):
    """Parameters of each model of merge.linear."""

    weight: Scalar
    """Share of the model in the average."""


def _same(signature: Signature, p: Linear) -> int | None:
    """Return the only model that counts, if it counts once."""
    weights = weights_of(signature)
    counting = [index for index, weight in enumerate(weights) if weight != 0]
    if len(counting) == 1 and (p.normalize or weights[counting[0]] == 1):
        return counting[0]
    return None


@op(
    "merge.linear",
    params=Linear,
    each=LinearModel,
    simplify=_same,
    check=lambda signature, p: sum_is_zero(signature, normalize=p.normalize),
    propagates=True,
    version=2,
    buffers=1,
    cite="Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models improves accuracy without "
    "increasing inference time, arXiv:2203.05482; Izmailov et al. 2018, Averaging Weights Leads to "
    "Wider Optima and Better Generalization, arXiv:1803.05407",
)
def linear(x: Chunk, p: Linear) -> Tensor:
    """Average models: Σ w·θ / Σ w.

    Summed in the sorted order of the models' names, divided once at the end: weights divided beforehand would
    round twice. Of float32 models the differences to one of them are averaged: what all agree on stays as it is, to
    the last bit. Weights that sum to 0 are an error unless `normalize` is false. Models that lack a tensor take no
    part in its average.
    """
    weights = weights_of(x.signature)
    if p.normalize and len(set(weights)) == 1:
        weights = [1.0] * len(weights)  # the same mean, with one pass and one rounding less
    wide = any(spec.dtype in _WIDE for spec in x.signature.models)
    # half the sum of two is rounded once, and exact where they agree
    if p.normalize and wide and weights != [1.0, 1.0]:
        return mean_of(x, weights)
    out = weighted_sum(x.models, weights, x.out)
    total = math.fsum(weights) if p.normalize else 1.0
    return out if total == 1 else out.div_(total)
