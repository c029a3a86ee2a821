"""merge.wudi: the delta that interferes least with every task's own, found by least squares."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.errors import OpError
from surgery.ops import Chunk, Signature, Split, op
from surgery_merge._common import Weighted
from surgery_merge._spectral import (
    Deltas,
    Positive,
    Shape,
    Spectral,
    check,
    matrix_bytes,
    merged,
    same,
    workspace,
)

if TYPE_CHECKING:
    from torch import Tensor


class Wudi(Spectral):
    """Parameters of merge.wudi."""

    ridge: Positive = 1e-2
    """Added to the diagonal of the system, as a share of its mean: low-rank deltas leave it singular."""


def _workspace(signature: Signature, p: Wudi) -> int:
    """Return the bytes of the system and its factor, a delta and its Gram matrix, or of the solution and its copies."""

    def needed(shape: Shape) -> int:
        whole, system = matrix_bytes(shape), matrix_bytes((shape[1], shape[1]))
        gram = matrix_bytes((min(shape), min(shape)))
        return max(2 * whole + 2 * system + gram, 4 * whole + system)

    return workspace(signature, p.targets, needed)


@op(
    "merge.wudi",
    split=Split.TENSOR,
    params=Wudi,
    each=Weighted,
    base="required",
    simplify=partial(same, keeps_one=False),
    check=check,
    workspace=_workspace,
    cite="Cheng et al. 2025, Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task "
    "Vectors, arXiv:2503.08099",
)
def wudi(x: Chunk, p: Wudi) -> Tensor:
    """Minimise the interference Σ ‖(M - τ)·τᵀ‖²/‖τ‖² and add the minimum: θ0 + λ·M.

    The rows of a task's delta stand for the inputs that the task was trained on. The minimum is found at once, where
    the authors take 300 steps of Adam from Στ: M·(ΣG + ρ·tr(ΣG)/C·1) = Στ·G with G = τᵀτ/‖τ‖², by Cholesky's method
    in float64. What is no matrix gets the mean of the deltas. Raises OpError if the ridge is too small for float64.
    """
    return merged(x, p, partial(_least_interference, ridge=p.ridge, name=x.signature.name))


def _least_interference(deltas: Deltas, ridge: float, name: str) -> Tensor:
    """Return M [R,C]."""
    import torch

    rows, columns = deltas.base.shape
    right = torch.zeros(rows, columns, dtype=torch.float64, device=deltas.base.device)
    system = torch.zeros(columns, columns, dtype=torch.float64, device=deltas.base.device)
    for delta in deltas:
        norm = float(delta.norm())
        if norm:
            _add_task(delta.div_(norm), norm, system, right)
        del delta
    trace = float(system.trace())
    if not trace:
        return right
    system.diagonal().add_(ridge * trace / columns)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise OpError(f"{name}: the system of {columns} columns is singular with `ridge` {ridge:g}; raise it")
    del system
    return torch.cholesky_solve(right.T, factor).T.contiguous()


def _add_task(unit: Tensor, norm: float, system: Tensor, right: Tensor) -> None:
    """Add G = τᵀτ/‖τ‖² to the system and τ·G to its right side, through the smaller Gram matrix of τ/‖τ‖."""
    rows, columns = unit.shape
    if rows < columns:
        system.addmm_(unit.T, unit)
        right.addmm_(unit @ unit.T, unit, alpha=norm)
    else:
        gram = unit.T @ unit
        system.add_(gram)
        right.addmm_(unit, gram, alpha=norm)
