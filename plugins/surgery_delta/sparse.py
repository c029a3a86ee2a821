"""delta.sparse: the largest changes of every matrix, each with its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field

from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.targets import is_stack
from surgery.tensors import STORED_FLOATS, TensorSpec
from surgery_delta._describe import describe
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor

_SHORT: Final = 1 << 16  # columns that 16 bits tell apart
_MANY: Final = 1 << 31


class Sparse(Delta):
    """Parameters of delta.sparse."""

    codec: ClassVar[str] = "sparse"

    density: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of every matrix's changes that is stored: the largest ⌊density·n⌋, at least one."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What the changes are stored as."""


def counts(signature: Signature, density: float) -> tuple[int, int]:
    """Return how many matrices a tensor holds, the experts of a stack, and how many changes of each are stored."""
    spec = signature.first
    matrices = spec.shape[0] if is_stack(signature) else 1
    return matrices, min(max(1, math.floor(density * (spec.numel // matrices))), spec.numel // matrices)


def entry_parts(spec: TensorSpec, dtype: str, count: int) -> list[Part]:
    """Return the values, columns and starts of `count` entries of a tensor."""
    return [
        part(spec.name, "values", (count,), STORED_FLOATS[dtype], rows=0),
        part(spec.name, "columns", (count,), "U16" if spec.row <= _SHORT else "I32", rows=0),
        part(spec.name, "starts", (spec.shape[0] + 1,), "I32" if count < _MANY else "I64", rows=0),
    ]


def layout(spec: TensorSpec, p: Sparse, count: int) -> list[Part]:
    """Return what is stored of a coded tensor's change, `count` entries in all."""
    return [*entry_parts(spec, p.dtype, count), check_part(spec)]


def parts(signature: Signature, p: Sparse) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    if not is_coded(signature, p):
        return whole(signature)
    return layout(signature.first, p, math.prod(counts(signature, p.density)))


def check(signature: Signature, p: Delta) -> str | None:
    """Return what is wrong with a tensor whose changes are to be entries."""
    if is_coded(signature, p) and signature.first.row >= _MANY:
        return f"rows of {signature.first.row} elements are too long; leave it out with `where:`"
    return None


def _workspace(signature: Signature, p: Sparse) -> int:
    """Return what selecting takes: the change, its magnitudes and patterns, flags, and an index of every entry."""
    return 40 * signature.numel if is_coded(signature, p) else 0


@op(
    "delta.sparse",
    split=Split.TENSOR,
    params=Sparse,
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
        "Ansell et al. 2022, Composable Sparse Fine-Tuning for Cross-Lingual Transfer, arXiv:2110.07560 "
        "(the largest changes)"
    ),
)
def sparse(x: Chunk, p: Sparse) -> Mapping[str, Tensor]:
    """Store the largest changes of a fine-tune: the ⌊density·n⌋ largest |τ| of each matrix, exactly so many.

    τ = θ - θ0 in float32; of equal ones those of the lower index are taken. Entries are stored row by row in the order
    of columns. The report tells the `energy` that is kept, their share of the sum of squares. The result is a folder
    that `adapter:` beside a `source:` reads.
    """
    from surgery_delta._entries import coded

    return coded(x, p) if is_coded(x.signature, p) else as_it_is(x)
