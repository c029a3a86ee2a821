"""delta.basis: changes as coefficients of random matrices that a seed makes again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field

from surgery.math.ranks import largest_bytes
from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_delta._describe import describe
from surgery_delta._matrices import Matrices
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor

# Numbers of a basis that are made at a time.
PIECE: Final = 1 << 20


class Basis(Delta):
    """Parameters of delta.basis."""

    codec: ClassVar[str] = "basis"

    rank: Annotated[int, Field(ge=1)] = 8
    """Columns of B and rows of A, no more than the matrix has."""

    basis: Annotated[int, Field(ge=1)] = 512
    """How many random matrices each factor is a sum of, and so how many coefficients are stored for it."""

    seed: Annotated[int, Field(ge=0)] = 0
    """What the random matrices are made from, together with the tensor's name."""

    sweeps: Annotated[int, Field(ge=1, le=100)] = 5
    """How often the coefficients of both factors are fitted to each other."""

    generator: Literal["philox4x64-10/1"] = "philox4x64-10/1"
    """What makes the random matrices, and the version of it: a reader needs the same."""


def rank_of(shape: Matrices, p: Basis) -> int:
    """Return the rank of every matrix of a tensor."""
    return min(p.rank, shape.rows, shape.columns)


def layout(spec: TensorSpec, p: Basis, *, stacked: bool) -> list[Part]:
    """Return what is stored of a coded tensor's change."""
    shape = Matrices.of(spec, stacked=stacked)
    rank = rank_of(shape, p)
    beta, alpha = (min(p.basis, rank * size) for size in (shape.rows, shape.columns))
    return [
        part(spec.name, "beta", (*shape.lead, beta), "F32", rows=0),
        part(spec.name, "alpha", (*shape.lead, alpha), "F32", rows=0),
        check_part(spec),
    ]


def parts(signature: Signature, p: Basis) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    if not is_coded(signature, p):
        return whole(signature)
    return layout(signature.first, p, stacked=Matrices.in_call(signature).stacked)


def _workspace(signature: Signature, p: Basis) -> int:
    """Return what the change takes, a matrix in float64, its decomposition, and products of a piece of the basis."""
    if not is_coded(signature, p):
        return 0
    shape = Matrices.in_call(signature)
    rank = rank_of(shape, p)
    found = largest_bytes((shape.rows, shape.columns), rank)
    solved = 64 * p.basis * p.basis + 40 * max(PIECE, rank * p.basis)
    wide = 24 * shape.rows * shape.columns + 40 * rank * (shape.rows + shape.columns)
    return 12 * signature.numel + wide + max(found, solved)


@op(
    "delta.basis",
    split=Split.TENSOR,
    params=Basis,
    base="required",
    models=1,
    gives=Space.DELTA,
    emits=parts,
    describe=describe,
    simplify=left_out,
    rest="drop",
    workspace=_workspace,
    note="of a change that was not trained in its random basis little is kept: look at `energy` in the report",
    cite="Koohpayegani et al. 2023, NOLA: Compressing LoRA using Linear Combination of Random Basis, arXiv:2310.02556",
)
def basis(x: Chunk, p: Basis) -> Mapping[str, Tensor]:
    """Store a fine-tune's change as coefficients on a random basis: τ ≈ B·A, B = Σ βⱼ·Bⱼ, A = Σ αⱼ·Aⱼ.

    τ = θ - θ0 in float32, of the fit float64. Bⱼ [out, rank] and Aⱼ [rank, in] are uniform numbers of mean 0 and
    expected length 1, a function of `seed`, the tensor's name and their place: they are made again when the delta is
    read. The fit begins with the best factors of this rank, brought into the span of Aⱼ; then β and α are in turns the
    best for the other one, by least squares on τ itself. No turn adds to the error. As many random matrices as a factor
    has numbers span all: then it is LoRA's best; a smaller share of them keeps about that share of a change that was
    trained without this basis.

    The report tells the `energy` that is kept, a share of the sum of squares. The result is a folder that `adapter:`
    beside a `source:` reads.
    """
    if not is_coded(x.signature, p):
        return as_it_is(x)
    from surgery_delta._basis import coded

    return coded(x, p)
