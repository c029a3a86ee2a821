"""quant.int4: sixteen codes for a weight, rounded to nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from surgery.ops import Chunk, Space, Split, op
from surgery_quant._describe import describe
from surgery_quant._scheme import Scheme, check, parts, same

if TYPE_CHECKING:
    from torch import Tensor


class Int4(Scheme):
    """Parameters of quant.int4."""

    group_size: Annotated[int, Field(ge=8)] | None = 128
    """How many neighbours along a Linear's input share a scale; `null`: a whole row does."""

    @property
    def bits(self) -> int:
        """Return the bits of a code."""
        return 4


@op(
    "quant.int4",
    split=Split.ROW,
    params=Int4,
    models=1,
    gives=Space.PACKED,
    vectors="skip",
    simplify=same,
    check=check,
    emits=parts,
    describe=describe,
    buffers=2,
    cite="Dettmers & Zettlemoyer 2023, The case for 4-bit precision, arXiv:2212.09720 (round to nearest in groups)",
)
def int4(x: Chunk, p: Int4) -> dict[str, Tensor]:
    """Round the Linears of the blocks to 4 bits: q = clamp(round(w / s), -8, 7), s = max|w| / 7.5 of each group.

    Written as compressed-tensors `pack-quantized`, which transformers and vLLM load: int32 `weight_packed`, scales,
    `weight_shape`, and zero points if not `symmetric`. Embeddings, heads, norms and routers stay as they are.
    """
    from surgery_quant._integers import quantize

    return quantize(x, p)
