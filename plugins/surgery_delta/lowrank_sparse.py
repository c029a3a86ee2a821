"""delta.lowrank_sparse: changes as a product of two thin matrices and the entries that it misses most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from surgery.math.ranks import largest_bytes
from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import STORED_FLOATS, TensorSpec
from surgery_delta._describe import describe
from surgery_delta._matrices import Matrices
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole
from surgery_delta.sparse import check, counts, entry_parts

if TYPE_CHECKING:
    from torch import Tensor


class LowrankSparse(Delta):
    """Parameters of delta.lowrank_sparse."""

    codec: ClassVar[str] = "lowrank_sparse"

    rank: Annotated[int, Field(ge=1)] = 16
    """Columns of U and rows of V, no more than the matrix has."""

    density: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The share of every matrix's places at which S has a number: ⌊density·n⌋, at least one."""

    max_iter: Annotated[int, Field(ge=0)] = 20
    """How often U·V and S are fitted to each other, at most."""

    tol: Annotated[float, Field(ge=0)] = 1e-5
    """The fit ends when what is left falls by less than this share of the change's sum of squares."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What factors and entries are stored as."""


def rank_of(shape: Matrices, p: LowrankSparse) -> int:
    """Return the rank of every matrix of a tensor."""
    return min(p.rank, shape.rows, shape.columns)


def layout(spec: TensorSpec, p: LowrankSparse, count: int, *, stacked: bool) -> list[Part]:
    """Return what is stored of a coded tensor's change, `count` entries in all."""
    shape, dtype = Matrices.of(spec, stacked=stacked), STORED_FLOATS[p.dtype]
    rank = rank_of(shape, p)
    return [
        part(spec.name, "left", (*shape.lead, shape.rows, rank), dtype, rows=0),
        part(spec.name, "right", (*shape.lead, rank, shape.columns), dtype, rows=0),
        *entry_parts(spec, p.dtype, count),
        check_part(spec),
    ]


def parts(signature: Signature, p: LowrankSparse) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    if not is_coded(signature, p):
        return whole(signature)
    count = math.prod(counts(signature, p.density))
    return layout(signature.first, p, count, stacked=Matrices.in_call(signature).stacked)


def _workspace(signature: Signature, p: LowrankSparse) -> int:
    """Return what the change takes, five copies of a matrix in float64, what selecting does, one decomposition."""
    if not is_coded(signature, p):
        return 0
    shape = Matrices.in_call(signature)
    rank = rank_of(shape, p)
    found = largest_bytes((shape.rows, shape.columns), rank)
    return 24 * signature.numel + 80 * shape.rows * shape.columns + found


@op(
    "delta.lowrank_sparse",
    split=Split.TENSOR,
    params=LowrankSparse,
    base="required",
    models=1,
    gives=Space.DELTA,
    emits=parts,
    describe=describe,
    simplify=left_out,
    check=check,
    rest="drop",
    workspace=_workspace,
    cite=(
        "Chen et al. 2021, DSEE: Dually Sparsity-embedded Efficient Tuning of Pre-trained Language Models, "
        "arXiv:2111.00160; Zhou, Tao 2011, GoDec: Randomized Low-rank & Sparse Matrix Decomposition in Noisy Case"
    ),
)
def lowrank_sparse(x: Chunk, p: LowrankSparse) -> Mapping[str, Tensor]:
    """Store a fine-tune's change as a thin product and single entries: τ ≈ U·V + S, fitted to each other.

    τ = θ - θ0 in float32, of the fit float64. In turns U·V is brought nearer to τ - S (one step of subspace
    iteration, as GoDec does for speed: U spans (τ - S)·Vᵀ, V = Uᵀ·(τ - S)) and S is the ⌊density·n⌋ largest entries of
    τ - U·V. No step adds to the error. The fit begins with S = 0, or with S the largest entries of τ, whichever leaves
    less: what a few large entries hide is found either way. A convolution is seen as [out, in·kh·kw]; every expert of a
    stack is fitted by itself.

    The report tells the `energy` that is kept, a share of the sum of squares, and the `steps` that it took, of a stack
    the most. The result is a folder that `adapter:` beside a `source:` reads.
    """
    if not is_coded(x.signature, p):
        return as_it_is(x)
    from surgery_delta._godec import coded

    return coded(x, p)
