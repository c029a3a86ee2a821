"""merge.iso_cts: what all deltas have in common and what each has of its own, all directions equally strong."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final

from surgery.math.ranks import exact_bytes, polar_bytes
from surgery.ops import Chunk, Signature, Split, op
from surgery.scalars import Share
from surgery_merge._common import Weighted
from surgery_merge._spectral import Deltas, Shape, Spectral, check, matrix_bytes, merged, same, workspace
from surgery_merge.iso_c import Over

if TYPE_CHECKING:
    from torch import Tensor

    Directions = tuple[Tensor, Tensor, Tensor]

_DOUBLE: Final = 8


class IsoCts(Spectral):
    """Parameters of merge.iso_cts."""

    common: Share = 0.8
    """Share of the directions that come from the sum of the deltas; the others come from each delta alone."""

    mean: Over = "nonzero"
    """Count directions above rounding only, or `all` min(R,C) of them, noise too (the authors' code)."""


def sizes(rank: int, models: int, common: float) -> tuple[int, int]:
    """Return how many of `rank` directions all have in common, and how many each of the models adds.

    ⌊common·rank⌋, moved so that the models share the rest equally; a half rounds to the even number, as in the
    authors' code.
    """
    wanted = math.floor(Fraction(repr(float(common))) * rank)
    each = round(Fraction(rank - wanted, models))
    each -= each * models > rank
    return rank - each * models, each


def _workspace(signature: Signature, p: IsoCts) -> int:
    """Return the bytes of all directions and of the largest step: a decomposition, or the product."""

    def needed(shape: Shape) -> int:
        rows, columns = shape
        small = min(shape)
        directions = _DOUBLE * small * (rows + columns)
        steps = (
            directions,
            exact_bytes(shape) + matrix_bytes(shape),
            polar_bytes((rows, small)),
            polar_bytes((small, columns)),
            2 * matrix_bytes(shape),
        )
        return directions + max(steps)

    return workspace(signature, p.targets, needed)


@op(
    "merge.iso_cts",
    split=Split.TENSOR,
    params=IsoCts,
    each=Weighted,
    base="required",
    simplify=partial(same, keeps_one=False),
    check=check,
    workspace=_workspace,
    cite="Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, "
    "arXiv:2502.04959, algorithm 2",
)
def iso_cts(x: Chunk, p: IsoCts) -> Tensor:
    """Keep the sum's leading directions, give the rest to each task's own, make all equally strong: θ0 + λ·σ̄·U·Vᵀ.

    Of Στ, with r the numerical rank (float32's), about `common`·r leading directions U_c, Σ_c, V_c are kept; each
    model adds the leading ones of (1 - U_c·U_cᵀ)·τ, as many as fill up r. Both sides are made orthogonal by their
    polar factors, restricted to the numerical rank, and σ̄ is the mean of all singular values taken. What is no
    matrix gets the mean of the deltas. Decomposed in float64, one model at a time.
    """
    return merged(x, p, partial(_common_and_own, p=p))


def _common_and_own(deltas: Deltas, p: IsoCts) -> Tensor:
    import torch

    from surgery.math.polar import polar

    epsilon = deltas.epsilon if p.mean == "nonzero" else None
    lefts, values, rights = (list(part) for part in zip(*_directions(deltas, p.common, epsilon), strict=True))
    strength = torch.cat(values)
    if not len(strength):
        return torch.zeros_like(deltas.base, dtype=torch.float64)
    left, right = torch.cat(lefts, 1), torch.cat(rights)
    del lefts, rights
    left = polar(left, epsilon).mul_(float(strength.mean()))
    return left @ polar(right, epsilon)


def _directions(deltas: Deltas, common: float, epsilon: float | None) -> list[Directions]:
    """Return U [R,k], σ [k] and Vh [k,C] of what all have in common, and of what each model adds to it."""
    from surgery.math.polar import numerical_svd

    U, S, Vh = numerical_svd(deltas.total(), epsilon)
    shared, own = sizes(len(S), len(deltas), common)
    space = U[:, :shared].clone()
    found = [(space, S[:shared], Vh[:shared].clone())]
    del U, Vh
    for delta in deltas if own else ():
        found.append(_own(delta, space, own, epsilon))
    return found


def _own(delta: Tensor, space: Tensor, own: int, epsilon: float | None) -> Directions:
    """Return the leading directions of a delta outside a space; those that rounding left there are none."""
    from surgery.math.polar import numerical_svd

    least = 0.0 if epsilon is None else max(delta.shape) * epsilon * float(delta.norm())
    delta -= space @ (space.T @ delta)
    U, S, Vh = numerical_svd(delta, epsilon, own)
    kept = int((least < S).sum()) if least else own
    return U[:, :kept].clone(), S[:kept], Vh[:kept].clone()
