"""delta.bits: one bit for every weight that changed, its sign, and a scale for every matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from surgery.math.bits import bytes_for
from surgery.ops import Chunk, Part, Reduce, Scan, Signature, Space, op
from surgery.targets import is_stack
from surgery.tensors import TensorSpec
from surgery_delta._describe import describe
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor

    from surgery_delta._signs import Means


class Bits(Delta):
    """Parameters of delta.bits."""

    codec: ClassVar[str] = "bits"

    scope: Literal["tensor", "row"] = "tensor"
    """What shares a scale: a matrix, or each of its rows. Experts that are stored in one tensor have one scale each."""

    masks: Annotated[int, Field(ge=1, le=8)] = 1
    """Bits for a weight: each further one codes, in the same way, what the ones before it left."""

    zero: Literal["sign", "keep"] = "sign"
    """What becomes of weights that did not change: `sign` moves them up like the others, as the paper does; `keep`
    stores a further bit for every weight and leaves them where they are."""


def layout(spec: TensorSpec, p: Bits, *, by_row: bool) -> list[Part]:
    """Return what is stored of a coded tensor's change."""
    rows, packed = spec.shape[0], bytes_for(spec.row)
    scale = (rows, p.masks) if by_row else (p.masks,)
    made = [
        part(spec.name, "signs", (rows, p.masks, packed), "U8"),
        part(spec.name, "scale", scale, "F32", rows=int(by_row)),
    ]
    if p.zero == "keep":
        made.append(part(spec.name, "changed", (rows, packed), "U8"))
    return [*made, check_part(spec)]


def by_row(signature: Signature, p: Bits) -> bool:
    """Return whether every row, or every expert of a stack, has a scale."""
    return p.scope == "row" or is_stack(signature)


def parts(signature: Signature, p: Bits) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    if not is_coded(signature, p):
        return whole(signature)
    return layout(signature.first, p, by_row=by_row(signature, p))


@op(
    "delta.bits",
    params=Bits,
    base="required",
    models=1,
    gives=Space.DELTA,
    emits=parts,
    describe=describe,
    simplify=left_out,
    rest="drop",
    buffers=2,
    cite="Liu et al. 2024, BitDelta: Your Fine-Tune May Only Be Worth One Bit, arXiv:2402.10193",
)
class BitsOp(Reduce):
    """Store a fine-tune as signs and scales: τ ≈ c·sign(τ), c = mean|τ| of each matrix, the best c for these signs.

    τ = θ - θ0 in float32; sign(0) = +1. Sums are float64, c is stored as float32. A further mask does the same to what
    is left, τ - c·sign(τ): each lowers the sum of squares by n·c². The paper's fit of the scales to outputs, which
    needs text and gradients, is not done. The result is a folder that `adapter:` beside a `source:` reads.
    """

    def scan(self, signature: Signature, params: Bits, found: Means | None, done: int) -> Scan | None:
        """Read everything once for every mask, unless rows have scales of their own."""
        alone = not is_coded(signature, params) or by_row(signature, params)
        return None if alone or done == params.masks else Scan.ALL

    def gather(self, x: Chunk, params: Bits, found: Means | None) -> list[tuple[float, int]]:
        """Return Σ|what is left| of a block, and how many weights it counts."""
        from surgery_delta._signs import magnitude

        return [magnitude(x, params, found or [])]

    def solve(
        self, signature: Signature, params: Bits, total: list[tuple[float, int]], found: Means | None
    ) -> Means:
        """Return the scales up to this mask."""
        from surgery_delta._signs import mean

        return [*(found or []), mean(total)]

    def apply(  # type: ignore[override]  # ops that emit return several tensors
        self, x: Chunk, params: Bits, found: Means | None
    ) -> Mapping[str, Tensor]:
        """Return what is stored of some rows."""
        from surgery_delta._signs import coded

        if not is_coded(x.signature, params):
            return as_it_is(x)
        return coded(x, params, found)
