"""merge.dop: one model after the other, balanced between what is there and what comes, in rows and in columns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.math.ranks import exact_bytes
from surgery.ops import Chunk, Signature, Split, op
from surgery.scalars import Share
from surgery_merge._common import Weighted
from surgery_merge._spectral import (
    Deltas,
    Positive,
    Shape,
    Spectral,
    check,
    leading,
    matrix_bytes,
    merged,
    same,
    workspace,
)

if TYPE_CHECKING:
    from torch import Tensor


class Dop(Spectral):
    """Parameters of merge.dop."""

    alpha: Share = 0.5
    """Weight of what was merged so far against 1 - alpha for the next model: stability against plasticity."""

    share: Share = 1.0
    """Share of the sum of a delta's singular values whose directions count."""

    ridge: Positive = 1e-6
    """Pull towards the weighted mean of the two, as a share of the mean pull of the losses; it decides elsewhere."""


def _workspace(signature: Signature, p: Dop) -> int:
    """Return the bytes of two deltas, both systems, the right side, and eigenvectors, products or a decomposition.

    LAPACK's syevd takes twice the matrix besides its eigenvectors.
    """

    def needed(shape: Shape) -> int:
        whole, A, B = (matrix_bytes(sides) for sides in (shape, (shape[0],) * 2, (shape[1],) * 2))
        solved = max(4 * whole + 4 * A + B, 4 * whole + 2 * A + 4 * B, 6 * whole + 2 * A + 2 * B)
        return max(solved, 3 * whole + A + B + exact_bytes(shape) if p.share < 1 else 0)

    return workspace(signature, p.targets, needed)


@op(
    "merge.dop",
    split=Split.TENSOR,
    params=Dop,
    each=Weighted,
    base="required",
    ordered=True,
    simplify=partial(same, keeps_one=True),
    check=check,
    workspace=_workspace,
    note="the eigenvectors of both sides of a matrix take minutes for each one of 10,000 rows or columns",
    cite=(
        "Yang et al. 2025, Continual Model Merging without Data: Dual Projections for Balancing Stability and "
        "Plasticity, NeurIPS"
    ),
)
def dop(x: Chunk, p: Dop) -> Tensor:
    """Merge models in their order, each as near as can be to M and to τ on their own directions.

    With U·S·Vᵀ the leading part of a delta, each step minimises α·L(M) + (1-α)·L(τ) over the next M, with
    L(τ) = ‖S·Uᵀ(M' - τ)‖² + ‖(M' - τ)·V·S‖². The authors take 200 steps of Adam, weighting the two by their
    gradients; with a fixed α the minimum is the solution of A·M' + M'·B = C, A = Σ w·U·S²·Uᵀ, B = Σ w·V·S²·Vᵀ,
    C = 2·Σ w·U·S³·Vᵀ, found here through the eigenvectors of A and B. Where no direction of either model counts,
    M' is their mean. The result is θ0 + λ·M'. What is no matrix gets the mean of the deltas. Computed in float64.
    """
    return merged(x, p, partial(_one_by_one, p=p))


def _one_by_one(deltas: Deltas, p: Dop) -> Tensor:
    M = deltas.of(0)
    for index in range(1, len(deltas)):
        M = _balanced(M, deltas.of(index), p)
    return M


def _balanced(M: Tensor, delta: Tensor, p: Dop) -> Tensor:
    """Return the solution for two deltas: A·X + X·B + μ·X = C + μ·(α·M + (1-α)·τ)."""
    import torch

    rows, columns = M.shape
    A, B, right = M.new_zeros(rows, rows), M.new_zeros(columns, columns), torch.zeros_like(M)
    for weight, tau in ((p.alpha, M), (1 - p.alpha, delta)):
        main = _leading_part(tau, p.share)
        A.addmm_(main, main.T, alpha=weight)
        gram = main.T @ main
        B.add_(gram, alpha=weight)
        right.addmm_(main, gram, alpha=2 * weight)
        del main, gram
    pull = p.ridge * float(A.trace()) * (1 / rows + 1 / columns)
    mean = torch.lerp(delta, M, p.alpha)
    if not pull:
        return mean
    return _solved(A, B, right.add_(mean, alpha=pull), pull)


def _leading_part(tau: Tensor, share: float) -> Tensor:
    """Return the delta's part along its leading singular directions."""
    from surgery.math.svd import svd_exact

    if share >= 1:
        return tau
    U, S, Vh = svd_exact(tau)
    count = leading(S, share)
    return (U[:, :count] * S[:count]) @ Vh[:count]


def _solved(A: Tensor, B: Tensor, right: Tensor, pull: float) -> Tensor:
    """Return X of A·X + X·B + μ·X = right for symmetric A and B without negative eigenvalues."""
    import torch

    left_values, left = torch.linalg.eigh(A)
    right_values, across = torch.linalg.eigh(B)
    turned = left.T @ right @ across
    turned.div_((left_values[:, None] + right_values).clamp_(min=0).add_(pull))
    solved: Tensor = left @ turned @ across.T
    return solved
