"""delta.kronecker: changes as sums of Kronecker products of a small matrix and a large one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from surgery.math.ranks import largest_bytes
from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import STORED_FLOATS, TensorSpec
from surgery_delta._describe import describe
from surgery_delta._matrices import Matrices
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor

Count = Annotated[int, Field(ge=1)]


class Kronecker(Delta):
    """Parameters of delta.kronecker."""

    codec: ClassVar[str] = "kronecker"

    blocks: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] = 4
    """Rows and columns of every A: what a matrix is cut into. One number for both, or two; they divide its shape."""

    terms: Count = 4
    """Products that are added, no more than make the sum exact: as many as A has numbers, or B."""

    rank: Count | None = None
    """Rank of every B, which is stored as two factors; by default B is stored whole."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What the matrices are stored as."""


def grid(p: Kronecker) -> tuple[int, int]:
    """Return the shape of every A."""
    rows, columns = p.blocks if isinstance(p.blocks, list) else (p.blocks, p.blocks)
    return rows, columns


def divides(shape: Matrices, p: Kronecker) -> bool:
    """Return whether matrices can be cut so."""
    rows, columns = grid(p)
    return shape.rows % rows == 0 and shape.columns % columns == 0


def sizes(shape: Matrices, p: Kronecker) -> tuple[int, int, int, int | None]:
    """Return rows and columns of every B, how many products there are, and the rank of B if it is factored."""
    rows, columns = grid(p)
    high, wide = shape.rows // rows, shape.columns // columns
    rank = None if p.rank is None else min(p.rank, high, wide)
    return high, wide, min(p.terms, rows * columns, high * wide), rank


def layout(spec: TensorSpec, p: Kronecker, *, stacked: bool) -> list[Part]:
    """Return what is stored of a coded tensor's change."""
    shape = Matrices.of(spec, stacked=stacked)
    (high, wide, terms, rank), dtype, lead = sizes(shape, p), STORED_FLOATS[p.dtype], shape.lead
    left = part(spec.name, "left", (*lead, terms, *grid(p)), dtype, rows=0)
    if rank is None:
        made = [part(spec.name, "right", (*lead, high, terms, wide), dtype, rows=0), left]
    else:
        made = [
            part(spec.name, "tall", (*lead, high, terms, rank), dtype, rows=0),
            part(spec.name, "wide", (*lead, terms, rank, wide), dtype, rows=0),
            left,
        ]
    return [*made, check_part(spec)]


def parts(signature: Signature, p: Kronecker) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    if not is_coded(signature, p):
        return whole(signature)
    return layout(signature.first, p, stacked=Matrices.in_call(signature).stacked)


def _check(signature: Signature, p: Kronecker) -> str | None:
    if not is_coded(signature, p):
        return None
    shape, (rows, columns) = Matrices.in_call(signature), grid(p)
    if divides(shape, p):
        return None
    what = f"a matrix of {shape.rows} × {shape.columns} has no {rows} × {columns} equal blocks"
    return f"{what}; choose `blocks` that divide it, or leave it out with `where:`"


def _workspace(signature: Signature, p: Kronecker) -> int:
    """Return what the change takes, one matrix of it in float64 and in the order of blocks, and its decompositions."""
    if not is_coded(signature, p):
        return 0
    shape, (rows, columns) = Matrices.in_call(signature), grid(p)
    high, wide, terms, rank = sizes(shape, p)
    found = largest_bytes((rows * columns, high * wide), terms)
    thin = largest_bytes((high, wide), rank) if rank else 0
    return 12 * signature.numel + 24 * shape.rows * shape.columns + max(found, thin)


@op(
    "delta.kronecker",
    split=Split.TENSOR,
    params=Kronecker,
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
        "Karimi Mahabadi, Henderson, Ruder 2021, Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, "
        "arXiv:2106.04647 (the form); Van Loan, Pitsianis 1993, Approximation with Kronecker products (the fit)"
    ),
)
def kronecker(x: Chunk, p: Kronecker) -> Mapping[str, Tensor]:
    """Store a fine-tune's change as a sum of Kronecker products: τ ≈ Σₖ Aₖ ⊗ Bₖ, each Bₖ whole or of a rank.

    τ = θ - θ0 in float32. Cut into `blocks` and each block written as a row, τ is a matrix whose best approximation of
    rank `terms` is this sum (float64): Aₖ = √σₖ·uₖ, Bₖ = √σₖ·vₖ, an error of the root of the dropped Σσ². With `rank`
    every Bₖ becomes its own nearest matrix S·Tᵀ of that rank, which for these Aₖ is the best choice. A convolution is
    seen as [out, in·kh·kw]; a stack's experts have products of their own. Unlike Compacter's adapters, which share all
    Aₖ, every matrix has its own.

    The report tells the `energy` that is kept, a share of the sum of squares. The result is a folder that `adapter:`
    beside a `source:` reads.
    """
    if not is_coded(x.signature, p):
        return as_it_is(x)
    from surgery_delta._kronecker import coded

    return coded(x, p)
