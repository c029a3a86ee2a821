"""merge.regmean: the matrices whose outputs come nearest to every model's, on what each of them read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from surgery.errors import OpError
from surgery.ops import Chunk, Companion, Params, Signature, Split, op
from surgery.scalars import Share
from surgery.targets import Targets
from surgery_merge._common import mean_of, weights_of
from surgery_merge._gram import GRAM, has_gram
from surgery_merge.fisher import NotNegative, check_weights, only_one

if TYPE_CHECKING:
    from torch import Tensor

_DOUBLE: Final = 8
_MOST: Final = 0.1  # the largest ridge that is tried: with it every Gram matrix can be factored


class Regmean(Params):
    """Parameters of merge.regmean."""

    alpha: Share = 0.9
    """Factor of what lies off the Gram matrices' diagonals; 0 averages each input by itself."""

    ridge: NotNegative = 1e-6
    """Added to the diagonal, as a share of its mean: inputs that no model has seen get the mean of the models."""

    targets: Targets = "linear"
    """Which matrices are regressed: Linears of the blocks, or `all` that have a Gram matrix; others are averaged."""


class RegmeanModel(Params):
    """Parameters of each model of merge.regmean."""

    gram: str
    """The model or step that holds the Gram matrices of its Linears' inputs, such as a step of merge.gram."""

    weight: NotNegative = 1.0
    """Factor of the model's Gram matrices, and its weight in averages."""


def _shape(signature: Signature, p: Regmean) -> tuple[int, ...] | None:
    width = signature.first.shape[-1] if signature.first.shape else 0
    return (width, width) if has_gram(signature, p.targets) else None


def _workspace(signature: Signature, p: Regmean) -> int:
    """Return the bytes of mean, right side, a difference and the solution; of the system, its factor and a matrix."""
    rows = 4 * signature.numel
    width = signature.first.shape[1] if has_gram(signature, p.targets) else 0
    return _DOUBLE * (rows + 3 * width * width)


@op(
    "merge.regmean",
    split=Split.TENSOR,
    params=Regmean,
    each=RegmeanModel,
    companions={GRAM: Companion(_shape, without="averaged")},
    simplify=lambda signature, p: only_one(signature),
    check=lambda signature, p: check_weights(signature),
    workspace=_workspace,
    version=2,
    buffers=1,
    cite="Jin et al. 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, "
    "arXiv:2212.09849, equation 2",
)
def regmean(x: Chunk, p: Regmean) -> Tensor:
    """Minimise Σ w·‖X·Mᵀ - X·Wᵀ‖² over each model's inputs X: M = (Σ w·W·G)·(Σ w·G)⁻¹ with G = XᵀX.

    Off-diagonals of G are multiplied by `alpha` first. Solved in float64 by Cholesky's method for the difference to the
    weighted mean of the models, which is what the ridge draws to. If the system cannot be factored the ridge is raised
    tenfold, up to 0.1 (or what is given); the report tells the `ridge` of every matrix. What has no Gram matrix of
    every model is averaged: Σ w·θ / Σ w. Raises OpError for what no Gram matrices are.
    """
    weights = weights_of(x.signature)
    grams = [gram for gram in x.companions[GRAM] if gram is not None]
    if len(grams) < len(weights):
        return mean_of(x, weights)
    return x.out.copy_(_regressed(x, grams, weights, p))


def _regressed(x: Chunk, grams: Sequence[Tensor], weights: Sequence[float], p: Regmean) -> Tensor:
    """Return M [out, in] in float64."""
    import torch

    models = x.models
    mean, total = torch.zeros_like(models[0], dtype=torch.float64), math.fsum(weights)
    for model, weight in zip(models, weights, strict=True):
        mean.add_(model, alpha=weight / total)
    right = torch.zeros_like(mean)
    system = torch.zeros_like(grams[0], dtype=torch.float64)
    for model, gram, weight in zip(models, grams, weights, strict=True):
        shrunk = gram.to(torch.float64, copy=True).mul_(weight * p.alpha)  # it may be float64 already
        shrunk.diagonal().copy_(gram.diagonal()).mul_(weight)
        system.add_(shrunk)
        right.addmm_(model - mean, shrunk)
        del shrunk
    if not system.any():
        return mean  # no model has read anything
    factor, ridge = _factor(system, p.ridge, x.signature.name)
    x.note("ridge", ridge)
    return mean.add_(torch.cholesky_solve(right.T, factor).T)


def _factor(system: Tensor, ridge: float, name: str) -> tuple[Tensor, float]:
    """Return Cholesky's factor of a system with a ridge on its diagonal, and that ridge; changes the system."""
    import torch

    mean, added = float(system.trace()) / len(system), 0.0
    most = max(ridge, _MOST)
    while ridge <= most:
        system.diagonal().add_((ridge - added) * mean)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(system)
        if not failed:
            return factor, ridge
        added, ridge = ridge, max(10 * ridge, 1e-12)
    raise OpError(
        f"{name}: the sum of its `{GRAM}` matrices is not positive definite with a ridge of {most:g}; "
        "Gram matrices XᵀX are, check what the models' entries name"
    )
