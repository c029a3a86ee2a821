"""What the ops of this family share: parameters of a model, weighted sums, sums of deltas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from surgery.ops import BASE, Chunk, Params, Signature
from surgery.scalars import Scalar, Share

if TYPE_CHECKING:
    from torch import Tensor

# Weights whose sum is closer to 0 than this cancel: dividing by it would blow up rounding errors.
NEGLIGIBLE: Final = 1e-8


class Weighted(Params):
    """Parameters of a model whose delta is added."""

    weight: Scalar = 1.0
    """Factor of the model's delta; a negative one takes away what the model learned."""


class Sparse(Weighted):
    """Parameters of a model whose delta is thinned out before it is added."""

    density: Share
    """Share of the delta's elements that are kept; 1 keeps all."""


def weights_of(signature: Signature) -> list[float]:
    """Return the weight of each model that has the tensor."""
    return [entry.weight for entry in signature.each]  # type: ignore[attr-defined]


def densities_of(signature: Signature) -> list[float]:
    """Return the density of each model that has the tensor."""
    return [entry.density for entry in signature.each]  # type: ignore[attr-defined]


def sum_is_zero(signature: Signature, *, normalize: bool, parameter: str = "normalize") -> str | None:
    """Return what is wrong if weights are to be divided by their sum, as `parameter` says, and that is 0."""
    weights = weights_of(signature)
    if not (normalize and weights) or abs(math.fsum(weights)) >= NEGLIGIBLE:
        return None
    listed = ", ".join(f"{weight:g}" for weight in weights)
    return (
        f"the weights {listed} sum to 0, which {parameter} divides by; change one or set {parameter}: false"
    )


def lacks_base(signature: Signature) -> str | None:
    """Return what is wrong if the base does not have the tensor."""
    return (
        "the base lacks this tensor, a delta needs it; leave it out with `where:`"
        if signature.base is None
        else None
    )


def copied(
    signature: Signature, shares: Sequence[float], *, scale: float, normalize: bool, mean: bool
) -> int | None:
    """Return the base when nothing is added to it, or the only model when its delta is added whole.

    `shares` of the deltas are kept: 0 is nothing, 1 is everything. `mean`: the divisor of `normalize` is the weight of
    the models that agree, not of all.
    """
    weights = weights_of(signature)
    pairs = list(zip(weights, shares, strict=True))
    adding = [index for index, (weight, share) in enumerate(pairs) if weight != 0 and share > 0]
    if scale == 0 or not adding:
        return BASE
    if len(adding) > 1 or pairs[adding[0]][1] < 1:
        return None
    weight = weights[adding[0]]
    divisor = (weight if mean else math.fsum(weights)) if normalize else 1.0
    whole = abs(divisor) >= NEGLIGIBLE and scale * weight / divisor == 1
    return adding[0] if whole else None


def subtract(x: Chunk, index: int, out: Tensor) -> Tensor:
    """Fill `out` with model - base."""
    import torch

    assert x.base is not None
    return torch.sub(x.models[index], x.base, out=out)


def scaled(x: Tensor, factor: float) -> Tensor:
    """Multiply in place; by 1 not at all, which saves a pass over the memory."""
    return x if factor == 1 else x.mul_(factor)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> Tensor:
    """Fill `out` with Σ w·x, first to last, and return it: one pass over the memory for each tensor but one."""
    import torch

    if len(tensors) > 1 and weights[0] == 1:
        torch.add(tensors[0], tensors[1], alpha=weights[1], out=out)
        rest = range(2, len(tensors))
    else:
        torch.mul(tensors[0], weights[0], out=out)
        rest = range(1, len(tensors))
    for i in rest:
        out.add_(tensors[i], alpha=weights[i])
    return out


def mean_of(x: Chunk, weights: Sequence[float]) -> Tensor:
    """Return Σ w·θ / Σ w in `x.out`; needs scratch buffer 0, or its memory for a whole tensor.

    Computed as θ' + Σ w·(θ - θ') / Σ w from the model θ' that counts most: where the models agree the mean is what they
    agree on, to the last bit.
    """
    import torch

    *others, most = sorted(range(len(weights)), key=lambda index: abs(weights[index]))
    start, (first, *rest) = x.models[most], others or [most]
    out = scaled(torch.sub(x.models[first], start, out=x.out), weights[first])
    for index in rest:
        out.add_(torch.sub(x.models[index], start, out=x.scratch(0)), alpha=weights[index])
    return torch.add(start, out, alpha=1 / math.fsum(weights), out=out)


def sum_deltas(x: Chunk, weights: Sequence[float]) -> Tensor:
    """Return Σ w·(model - base) in `x.out`, first to last; needs scratch buffer 0 for more than one model."""
    out = scaled(subtract(x, 0, x.out), weights[0])
    for index in range(1, len(weights)):
        out.add_(subtract(x, index, x.scratch(0)), alpha=weights[index])
    return out


def add_deltas(x: Chunk, weights: Sequence[float], scale: float) -> Tensor:
    """Return base + scale·Σ w·(model - base) in `x.out`; needs scratch buffer 0 for more than one model.

    The deltas are summed before the base is added: each is exact or nearly so, while a sum of models rounds at
    the size of the weights.
    """
    import torch

    assert x.base is not None
    if len(weights) == 1:
        return torch.add(x.base, subtract(x, 0, x.out), alpha=weights[0] * scale, out=x.out)
    return torch.add(x.base, sum_deltas(x, weights), alpha=scale, out=x.out)
