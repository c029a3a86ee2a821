"""merge.assemble: each tensor from one parent or a mix of several, where they differ enough."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from surgery.ops import Chunk, Params, Reduce, Scan, Signature, op
from surgery.scalars import Scalar, Schedulable
from surgery_merge._common import sum_is_zero, weighted_sum, weights_of

if TYPE_CHECKING:
    from torch import Tensor


class Assemble(Params):
    """Parameters of merge.assemble."""

    delta: Annotated[float, Schedulable(ge=0)] = 0.0
    """Tensors whose greatest difference to the first model is not above this are the first model's, byte by byte."""

    norm: Literal["relative", "rms"] = "relative"
    """What a difference is measured by: its norm over the norm of the first model's tensor, or its root mean square."""

    normalize: bool = True
    """Divide by the sum of the weights."""


class Parent(Params):
    """Parameters of each model of merge.assemble."""

    weight: Scalar
    """Share of the model; a map of selectors gives each kind of tensor its own: `{mlp: 1, default: 0}`."""


def _counting(signature: Signature) -> list[int]:
    """Return the models whose weight is not 0."""
    return [index for index, weight in enumerate(weights_of(signature)) if weight != 0]


def _alone(signature: Signature, p: Assemble) -> int | None:
    """Return the model that is the whole mix."""
    counting = _counting(signature)
    whole = len(counting) == 1 and (p.normalize or weights_of(signature)[counting[0]] == 1)
    return counting[0] if whole else None


def _same(signature: Signature, p: Assemble) -> int | None:
    """Return the model that gives the tensor whatever its values: the first, or another that is not gated."""
    if len(signature.models) == 1:
        return 0
    alone = _alone(signature, p)
    return alone if alone == 0 or p.delta == 0 else None


@op(
    "merge.assemble",
    params=Assemble,
    each=Parent,
    ordered=True,
    simplify=_same,
    check=lambda signature, p: sum_is_zero(signature, normalize=p.normalize),
    buffers=1,
    cite=(
        "Klagges et al. 2025, Assembly of Experts: Linear-time construction of the Chimera LLM variants with "
        "emergent and adaptable behaviors, arXiv:2506.14794"
    ),
)
class AssembleOp(Reduce):
    """Assemble a model tensor by tensor: Σ w·θ_i where max ‖θ_i - θ_1‖ > delta, else the first model's bytes.

    `where:` says which tensors may be mixed; all others are copied from the first model, as are those that differ by
    `delta` or less from it in every model of weight other than 0. Where a single model has all the weight, its bytes
    are copied. Norms are Frobenius norms summed in float64, divided by that of θ_1 or, with `norm: rms`, by √n.
    """

    def scan(self, signature: Signature, p: Assemble, found: bool | None, done: int) -> Scan | None:
        """Read everything once if differences decide."""
        return Scan.ALL if p.delta > 0 and done == 0 else None

    def gather(self, x: Chunk, p: Assemble, found: None) -> list[list[float]]:
        """Return the squared norms over a block: of the first model, and of the differences to it."""
        import torch

        from surgery.math.reduce import squared_norm

        first, work = x.models[0], x.scratch(0)
        others = [index for index in _counting(x.signature) if index]
        norms = [[squared_norm(torch.sub(x.models[index], first, out=work))] for index in others]
        return [[squared_norm(first)], *norms]

    def fold(self, total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
        """Collect the blocks' norms."""
        for mine, other in zip(total, part, strict=True):
            mine += other
        return total

    def solve(self, signature: Signature, p: Assemble, total: list[list[float]], found: None) -> bool:
        """Return whether the models differ enough to be mixed."""
        from surgery.math.reduce import exact_sum

        first, *others = (math.sqrt(exact_sum(parts)) for parts in total)
        scale = first if p.norm == "relative" else math.sqrt(signature.numel)
        return max(others, default=0.0) > p.delta * scale

    def apply(self, x: Chunk, p: Assemble, found: bool | None) -> Tensor:
        """Return the mix, or the first model where it was found too close."""
        if found is False:
            return x.out.copy_(x.models[0])
        alone = _alone(x.signature, p)
        if alone is not None:
            return x.out.copy_(x.models[alone])
        return _mixed(x, p)


def _mixed(x: Chunk, p: Assemble) -> Tensor:
    """Return Σ w·θ; shares that sum to 1 are added up as differences to the first model, which are small."""
    import torch

    weights = weights_of(x.signature)
    if not p.normalize:
        return weighted_sum(x.models, weights, x.out)
    total, first, out, work = math.fsum(weights), x.models[0], x.out, x.scratch(0)
    out.zero_()
    for model, weight in zip(x.models[1:], weights[1:], strict=True):
        out.add_(torch.sub(model, first, out=work), alpha=weight / total)
    return out.add_(first)
