"""merge.iso_c: the sum of the deltas with all its singular values made equal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from surgery.math.ranks import polar_bytes
from surgery.ops import Chunk, Signature, Split, op
from surgery_merge._common import Weighted
from surgery_merge._spectral import Deltas, Spectral, check, merged, same, workspace

if TYPE_CHECKING:
    from torch import Tensor

Over = Literal["nonzero", "all"]


class IsoC(Spectral):
    """Parameters of merge.iso_c."""

    mean: Over = "nonzero"
    """Take the mean over the singular values above rounding, or over `all`, noise and zeros too (the authors' code)."""


def _workspace(signature: Signature, p: IsoC) -> int:
    """Return the bytes of the sum, its decomposition and the product."""
    return workspace(signature, p.targets, polar_bytes)


@op(
    "merge.iso_c",
    split=Split.TENSOR,
    params=IsoC,
    each=Weighted,
    base="required",
    simplify=partial(same, keeps_one=False),
    check=check,
    workspace=_workspace,
    cite="Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, "
    "arXiv:2502.04959, algorithm 1",
)
def iso_c(x: Chunk, p: IsoC) -> Tensor:
    """Add the deltas and make the sum's spectrum flat: θ0 + λ·σ̄·U·Vᵀ with Στ = U·Σ·Vᵀ and σ̄ the mean of Σ.

    Directions below the numerical rank of Στ (float32's) are left out, of the mean too: without that, deltas of low
    rank come out mostly in directions that no model changed. What is no matrix gets the mean of the deltas.
    Decomposed in float64.
    """
    return merged(x, p, partial(_flat, over=p.mean))


def _flat(deltas: Deltas, over: Over) -> Tensor:
    from surgery.math.polar import numerical_svd

    U, S, Vh = numerical_svd(deltas.total(), deltas.epsilon if over == "nonzero" else None)
    return (U @ Vh).mul_(float(S.mean()) if len(S) else 0.0)
