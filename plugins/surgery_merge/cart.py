"""merge.cart: the mean of the models, and what each has besides in a few singular directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from surgery.math.ranks import exact_bytes
from surgery.ops import Chunk, Params, Signature, Split, op
from surgery.scalars import Scalar
from surgery.targets import Targets, is_target, matrix_shape
from surgery_merge._spectral import Deltas, Shape, matrix_bytes, workspace
from surgery_merge.tsvm import Part, kept

if TYPE_CHECKING:
    from torch import Tensor


class Cart(Params):
    """Parameters of merge.cart."""

    lambda_: Scalar = Field(default=1.0, alias="lambda")
    """Factor of what is added to the mean."""

    fraction: Part = 0.08
    """Share of a matrix's singular directions that each model brings in."""

    targets: Targets = "linear"
    """What counts as a matrix: Linears of the blocks, or `all` tensors of two and more dimensions."""


def _workspace(signature: Signature, p: Cart) -> int:
    """Return the bytes of the mean, of the sum, a decomposition, its scaled vectors and the product."""

    def needed(shape: Shape) -> int:
        return exact_bytes(shape) + 5 * matrix_bytes(shape)

    return workspace(signature, p.targets, needed)


@op(
    "merge.cart",
    split=Split.TENSOR,
    params=Cart,
    models=(2, None),
    simplify=lambda signature, p: None if signature.numel else 0,
    workspace=_workspace,
    cite="Choi, Kim, Lee, Hong 2024, Revisiting Weight Averaging for Model Merging, arXiv:2412.12153",
)
def cart(x: Chunk, p: Cart) -> Tensor:
    """Add to the mean each model's leading directions about it: θ̄ + λ·Σ SVD_k(θ - θ̄), θ̄ = Σθ/T.

    k = max(1, ⌊fraction·min(R,C)⌋). With all directions nothing is left but the mean; so it is with two models, whose
    differences to the mean are each other's negative. What is no matrix gets the mean. There is no base. Decomposed in
    float64, one model at a time, on the numerical rank (float32's).
    """
    import torch

    result = torch.empty_like(x.models[0])
    whole = is_target(x.signature, p.targets)
    shape = matrix_shape(x.signature) if whole else (1, x.models[0].numel())
    stacks = [model.reshape(-1, *shape) for model in x.models]
    for index, out in enumerate(result.view(-1, *shape)):
        models = tuple(stack[index] for stack in stacks)
        deltas = Deltas(models, models[0], (1.0,) * len(models))
        if whole:
            out.copy_(_about_the_mean(deltas, p).add_(models[0]))
        else:
            _mean(deltas, out)
    return result


def _about_the_mean(deltas: Deltas, p: Cart) -> Tensor:
    """Return what is added to the first model, in float64."""
    import torch

    from surgery.math.polar import numerical_svd

    mean = deltas.total().div_(len(deltas))
    keep = kept((mean.shape[0], mean.shape[1]), 1, p.fraction)
    total = torch.zeros_like(mean)
    for delta in deltas:
        U, S, Vh = numerical_svd(delta.sub_(mean), deltas.epsilon, keep)
        total.addmm_(U * S, Vh)
        del delta, U, S, Vh
    return total.mul_(p.lambda_).add_(mean)


def _mean(deltas: Deltas, out: Tensor) -> None:
    flat = out.view(-1)
    for at, piece in deltas.pieces():
        flat[at] = piece.total().div_(len(deltas)).add_(piece.base)
