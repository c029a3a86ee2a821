"""delta.tucker: changes as a small core with a factor for every dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from surgery.math.ranks import largest_bytes
from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import STORED_FLOATS, TensorSpec
from surgery_delta._describe import describe
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor

Rank = Annotated[int, Field(ge=1)]


class Tucker(Delta):
    """Parameters of delta.tucker."""

    codec: ClassVar[str] = "tucker"

    rank: Rank | Annotated[list[Rank], Field(min_length=2)] = 16
    """The core's size in every dimension, no more than the tensor's; a list has a number for each."""

    sweeps: Annotated[int, Field(ge=0, le=100)] = 5
    """How often the factors of tensors of three and more dimensions are fitted to each other. Matrices need none."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What core and factors are stored as."""


def ranks(shape: Sequence[int], p: Tucker) -> tuple[int, ...]:
    """Return the core's shape: no dimension exceeds the tensor's, nor the product of the core's others."""
    asked = p.rank if isinstance(p.rank, list) else [p.rank] * len(shape)
    cut = [min(rank, size) for rank, size in zip(asked, shape, strict=True)]
    for mode, rank in enumerate(cut):
        cut[mode] = min(rank, math.prod(cut) // rank)
    return tuple(cut)


def reduced(shape: Sequence[int], core: Sequence[int]) -> list[int]:
    """Return the dimensions that have a factor: in the others the core is as large as the tensor."""
    return [mode for mode, (size, rank) in enumerate(zip(shape, core, strict=True)) if rank < size]


def layout(spec: TensorSpec, p: Tucker) -> list[Part]:
    """Return what is stored of a coded tensor's change."""
    core, dtype = ranks(spec.shape, p), STORED_FLOATS[p.dtype]
    factors = [
        part(spec.name, f"factor{mode}", (spec.shape[mode], core[mode]), dtype, rows=0)
        for mode in reduced(spec.shape, core)
    ]
    return [part(spec.name, "core", core, dtype, rows=0), *factors, check_part(spec)]


def parts(signature: Signature, p: Tucker) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    return layout(signature.first, p) if is_coded(signature, p) else whole(signature)


def _check(signature: Signature, p: Tucker) -> str | None:
    shape = signature.first.shape
    if is_coded(signature, p) and isinstance(p.rank, list) and len(p.rank) != len(shape):
        what = f"`rank` has {len(p.rank)} numbers for the {len(shape)} dimensions of {shape}"
        return f"{what}; give one number for all, or leave it out with `where:`"
    return None


def _workspace(signature: Signature, p: Tucker) -> int:
    """Return what the change in float64, two more orders of its elements, and one decomposition take."""
    if not is_coded(signature, p):
        return 0
    shape = signature.first.shape
    core = ranks(shape, p)
    unfolded = [
        largest_bytes((shape[mode], signature.numel // shape[mode]), core[mode])
        for mode in reduced(shape, core)
    ]
    return 28 * signature.numel + max(unfolded, default=0)


@op(
    "delta.tucker",
    split=Split.TENSOR,
    params=Tucker,
    base="required",
    models=1,
    gives=Space.DELTA,
    emits=parts,
    describe=describe,
    simplify=left_out,
    check=_check,
    rest="drop",
    workspace=_workspace,
    cite=(
        "Si et al. 2024, FLoRA: Low-Rank Core Space for N-dimension, arXiv:2405.14739; De Lathauwer, De Moor, "
        "Vandewalle 2000, On the Best Rank-1 and Rank-(R1, R2, ..., RN) Approximation of Higher-Order Tensors"
    ),
)
def tucker(x: Chunk, p: Tucker) -> Mapping[str, Tensor]:
    """Store a fine-tune's change as a core and factors: τ ≈ G ×₁ A₁ ··· ×ₙ Aₙ; of a matrix A₁·G·A₂ᵀ.

    τ = θ - θ0 in float32, decomposed in float64 with all its dimensions: out, in, height and width of a convolution,
    experts, rows and columns of a stack. Aₙ [size, rank] has orthonormal columns: first the leading left singular
    vectors of what the factors before it left of τ, unfolded along n (sequentially truncated higher-order singular
    value decomposition); then `sweeps` passes, each of which fits every factor to all others (higher-order orthogonal
    iteration) and never adds to the error. That is at most √N times the least one; of a matrix it is the least, that
    of its singular values. A dimension of full rank has no factor.

    The report tells the `energy` that is kept, a share of the sum of squares. The result is a folder that `adapter:`
    beside a `source:` reads.
    """
    if not is_coded(x.signature, p):
        return as_it_is(x)
    from surgery_delta._tucker import coded

    return coded(x, p)
