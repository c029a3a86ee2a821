"""merge.svc: take back what a merge counted several times, direction by direction."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.math.ranks import exact_bytes
from surgery.ops import Chunk, Params, Signature, Split, op
from surgery.targets import Targets, is_target
from surgery_merge._common import lacks_base
from surgery_merge._spectral import Deltas, Positive, Shape, matrix_bytes, of_matrices, workspace

if TYPE_CHECKING:
    from torch import Tensor


class Svc(Params):
    """Parameters of merge.svc."""

    alpha: Positive = 1.0
    """Least share of a direction that each task is taken to have; no direction grows by more than 1/alpha."""

    targets: Targets = "linear"
    """What counts as a matrix: Linears of the blocks, or `all` tensors of two and more dimensions."""


def _same(signature: Signature, p: Svc) -> int | None:
    """Return the merge where it is no matrix or empty, or no task has it."""
    nothing = len(signature.models) == 1 or not signature.numel
    return 0 if nothing or not is_target(signature, p.targets) else None


def _check(signature: Signature, p: Svc) -> str | None:
    if signature.place(0):
        return "the first model, the merge to calibrate, lacks this tensor; leave it out with `where:`"
    return lacks_base(signature)


def _workspace(signature: Signature, p: Svc) -> int:
    """Return the bytes of the merged delta, its decomposition and a task's delta; less is held while they are used."""

    def needed(shape: Shape) -> int:
        return exact_bytes(shape) + matrix_bytes(shape)

    return workspace(signature, p.targets, needed)


@op(
    "merge.svc",
    split=Split.TENSOR,
    params=Svc,
    base="required",
    models=(2, None),
    ordered=True,
    simplify=_same,
    check=_check,
    workspace=_workspace,
    cite=(
        "Li et al. 2026, When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging, ICML, "
        "arXiv:2602.05536"
    ),
)
def svc(x: Chunk, p: Svc) -> Tensor:
    """Calibrate the singular values of a merge, the first model, by the tasks that it was made of, the others.

    Of the merged delta U·Σ·Vᵀ, direction r was counted s_i = ⟨a, a_i⟩/‖a_i‖² times what task i has of it, with
    a = σ·v the merge's row u_rᵀΔ and a_i = u_rᵀτ_i the task's; σ is multiplied by γ = K/Σ max(α, s_i) for K tasks.
    A task has nothing of a direction, s = 0, where ‖a_i‖ is but rounding (max(R,C)·ε·‖τ_i‖ in float32). What is no
    matrix is the merge's. Decomposed in float64.
    """
    return of_matrices(x, partial(_calibrated, alpha=p.alpha))


def _calibrated(deltas: Deltas, alpha: float) -> Tensor:
    import torch

    from surgery.math.polar import numerical_svd

    U, S, Vh = numerical_svd(deltas.of(0), deltas.epsilon)
    counted = torch.zeros_like(S)
    for index in range(1, len(deltas)):
        task = deltas.of(index)
        noise = max(task.shape) * deltas.epsilon * float(task.norm())
        rows = U.T @ task
        del task
        squares = rows.square().sum(1)
        times = S * (rows * Vh).sum(1) / squares
        counted += torch.where(squares > noise**2, times, 0.0).clamp(min=alpha)
        del rows
    return (U * (S * (len(deltas) - 1) / counted)) @ Vh
