"""The scalar beside each pair of factors in kohya's files; an op that only layouts call, not registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, Params, Signature, Space, Split, op
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


def _number(signature: Signature, p: Params) -> TensorSpec:
    return TensorSpec(signature.name, (), "F32")


@op("adapter.alpha", split=Split.TENSOR, models=1, takes=Space.FACTORS, gives=Space.FACTORS, infer=_number)
def alpha(x: Chunk, p: Params) -> Tensor:
    """Return the rank of A [r, in]: with it as alpha the scale alpha/r is 1."""
    A: Tensor = x.models[0]
    return A.new_full((), len(A))
