"""delta.reflect: weights reflected at hyperplanes, a vector for every block of inputs or outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field

from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_delta._describe import describe
from surgery_delta._matrices import Matrices
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor


_ROOM: Final = 8 << 20  # what LAPACK and BLAS keep for themselves


class Reflect(Delta):
    """Parameters of delta.reflect."""

    codec: ClassVar[str] = "reflect"

    method: Literal["ether", "ether_plus"] = "ether"
    """H of every block: I - 2·u·uᵀ (ETHER), or I - u·uᵀ + v·vᵀ (ETHER+); vectors of length one."""

    side: Literal["in", "out", "both"] = "in"
    """`in`: W·H, which turns what a matrix reads, as the paper does; `out`: H·W, what it writes; or both."""

    blocks: Annotated[int, Field(ge=1)] = 4
    """Blocks on H's diagonal, each with vectors of its own; they divide the inputs, or outputs, that H turns."""

    cut: Literal["columns", "rows"] = "columns"
    """What the inputs' blocks are. `columns`: block b of H turns columns, as the paper says. `rows`, as its authors'
    code: H has one block for each of as many parts of the rows, which turns every stretch of columns of that part."""

    sweeps: Annotated[int, Field(ge=1, le=100)] = 5
    """How often vectors that depend on each other are fitted in turns: u and v, both sides."""


def sides(p: Reflect) -> list[str]:
    """Return the sides that have a matrix H: `out`, `in`."""
    return [side for side in ("out", "in") if p.side in (side, "both")]


def misfit(shape: Matrices, p: Reflect) -> str | None:
    """Return what cannot be cut into blocks, or None."""
    into, out = "in" in sides(p), "out" in sides(p) or p.cut == "rows"
    if into and shape.columns % p.blocks:
        return f"{shape.columns} inputs"
    return f"{shape.rows} outputs" if out and shape.rows % p.blocks else None


def vectors(shape: Matrices, p: Reflect) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield suffix and shape of all vectors that are stored of a tensor."""
    for side in sides(p):
        size = shape.columns if side == "in" else shape.rows
        for which in ("u", "v") if p.method == "ether_plus" else ("u",):
            yield f"{which}_{side}", (*shape.lead, p.blocks, size // p.blocks)


def layout(spec: TensorSpec, p: Reflect, *, stacked: bool) -> list[Part]:
    """Return what is stored of a coded tensor's change."""
    shape = Matrices.of(spec, stacked=stacked)
    made = [part(spec.name, suffix, size, "F32", rows=0) for suffix, size in vectors(shape, p)]
    return [*made, check_part(spec)]


def parts(signature: Signature, p: Reflect) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    if not is_coded(signature, p):
        return whole(signature)
    return layout(signature.first, p, stacked=Matrices.in_call(signature).stacked)


def _check(signature: Signature, p: Reflect) -> str | None:
    what = misfit(Matrices.in_call(signature), p) if is_coded(signature, p) else None
    advice = "choose `blocks` that divide them, or leave it out with `where:`"
    return f"{what} are not {p.blocks} equal blocks; {advice}" if what else None


def _workspace(signature: Signature, p: Reflect) -> int:
    """Return what the change, eight copies of a matrix in float64 and the eigenvectors of one block's products take."""
    if not is_coded(signature, p):
        return 0
    shape = Matrices.in_call(signature)
    size = max(shape.columns if side == "in" else shape.rows for side in sides(p)) // p.blocks
    return 12 * signature.numel + 64 * shape.rows * shape.columns + 192 * size * size + _ROOM


@op(
    "delta.reflect",
    split=Split.TENSOR,
    params=Reflect,
    base="required",
    models=1,
    gives=Space.DELTA,
    emits=parts,
    describe=describe,
    simplify=left_out,
    check=_check,
    rest="drop",
    workspace=_workspace,
    note="of a change that was not trained as reflections little is kept: look at `energy` in the report",
    cite="Bini, Roth, Akata, Girrbach 2024, ETHER: Efficient Finetuning of Large-Scale Models with Hyperplane "
    "Reflections, arXiv:2405.20271",
)
def reflect(x: Chunk, p: Reflect) -> Mapping[str, Tensor]:
    """Store a fine-tune as reflections of its base: W ≈ W0·H, H block-diagonal (ETHER, ETHER+).

    The nearest H = I - 2·u·uᵀ has for u the eigenvector of the least eigenvalue λ of the symmetric part of W0ᵀ·W of
    the block's columns: ‖W0·H - W‖² = ‖W0 - W‖² + 4λ. Where no λ is negative the block stays as it is, u = 0. Of
    H = I - u·uᵀ + v·vᵀ each vector is in turns the best for the other one, an eigenvector likewise; these turns, and
    those between both sides, never add to the error, but may end in a local best. Computed in float64. A base's own
    reflections of one side are found again to rounding; those of ETHER+ where blocks have no more columns than rows.

    The report tells the `energy` that is kept of the change, 1 - ‖W0·H - W‖²/‖W0 - W‖². The result is a folder that
    `adapter:` beside a `source:` reads.
    """
    if not is_coded(x.signature, p):
        return as_it_is(x)
    from surgery_delta._reflect import coded

    return coded(x, p)
