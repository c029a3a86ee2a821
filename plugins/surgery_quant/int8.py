"""quant.int8: 256 codes for a weight, rounded to nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from surgery.ops import Chunk, Space, Split, op
from surgery_quant._describe import describe
from surgery_quant._scheme import Scheme, check, parts, same

if TYPE_CHECKING:
    from torch import Tensor


class Int8(Scheme):
    """Parameters of quant.int8."""

    activations: Literal["none", "dynamic"] = "none"
    """`dynamic`: engines also round what goes into the Linears, one scale for each token, and multiply integers."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.activations == "dynamic" and (self.group_size is not None or not self.symmetric):
            raise ValueError(
                "`activations: dynamic` needs symmetric codes and a scale for each row; remove the others"
            )
        return self

    @property
    def bits(self) -> int:
        """Return the bits of a code."""
        return 8

    @property
    def packed(self) -> bool:
        """Return whether codes are packed into words; otherwise each is a byte of its own."""
        return self.activations == "none"


@op(
    "quant.int8",
    split=Split.ROW,
    params=Int8,
    models=1,
    gives=Space.PACKED,
    vectors="skip",
    simplify=same,
    check=check,
    emits=parts,
    describe=describe,
    buffers=2,
    cite="Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339 (round to nearest, a scale for each row)",
)
def int8(x: Chunk, p: Int8) -> dict[str, Tensor]:
    """Round the Linears of the blocks to 8 bits: q = clamp(round(w / s), -128, 127), s = max|w| / 127.5 of each row.

    Written as compressed-tensors: `pack-quantized`, or `int-quantized` with `activations: dynamic`. Embeddings, heads,
    norms and routers stay as they are.
    """
    from surgery_quant._integers import quantize

    return quantize(x, p)
