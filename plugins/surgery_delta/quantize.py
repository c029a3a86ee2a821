"""delta.quantize: changes as codes of 2 to 8 bits, with a scale for every group of neighbours in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from surgery.math.packing import words_for
from surgery.ops import Chunk, Part, Signature, Space, Split, op
from surgery.tensors import TensorSpec
from surgery_delta._describe import describe
from surgery_delta._stored import Delta, as_it_is, check_part, is_coded, left_out, part, whole

if TYPE_CHECKING:
    from torch import Tensor


class Quantize(Delta):
    """Parameters of delta.quantize."""

    codec: ClassVar[str] = "quantize"

    bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits of a code."""

    group_size: Annotated[int, Field(ge=8)] | None = 128
    """How many neighbours in a row share a scale, fewer at its end; `null`: a whole row does."""


def groups(spec: TensorSpec, p: Quantize) -> int:
    """Return how many scales a row has."""
    return -(-spec.row // (p.group_size or spec.row))


def layout(spec: TensorSpec, p: Quantize) -> list[Part]:
    """Return what is stored of a coded tensor's change."""
    rows = spec.shape[0]
    return [
        part(spec.name, "codes", (rows, words_for(spec.row, p.bits)), "I32"),
        part(spec.name, "scale", (rows, groups(spec, p)), "BF16"),
        check_part(spec),
    ]


def parts(signature: Signature, p: Quantize) -> Sequence[Part]:
    """Return the tensors that a tensor becomes."""
    return layout(signature.first, p) if is_coded(signature, p) else whole(signature)


@op(
    "delta.quantize",
    split=Split.ROW,
    params=Quantize,
    base="required",
    models=1,
    gives=Space.DELTA,
    emits=parts,
    describe=describe,
    simplify=left_out,
    rest="drop",
    cite="Dettmers & Zettlemoyer 2023, The case for 4-bit precision, arXiv:2212.09720 (round to nearest in groups)",
)
def quantize(x: Chunk, p: Quantize) -> Mapping[str, Tensor]:
    """Store a fine-tune's change in few bits: q = clamp(round(τ / s), -2ᵇ⁻¹, 2ᵇ⁻¹ - 1), s = max|τ| / ((2ᵇ - 1) / 2).

    τ = θ - θ0 in float32. Scales are rounded to bfloat16 before codes are computed from them; ties round to even; a
    group without changes has scale 0. The result is a folder that `adapter:` beside a `source:` reads.
    """
    from surgery_delta._groups import coded

    return coded(x, p) if is_coded(x.signature, p) else as_it_is(x)
