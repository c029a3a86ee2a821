"""merge.cast: round a result before more is computed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from surgery.ops import Chunk, Params, Signature, op
from surgery.tensors import DTYPES, STORED_FLOATS, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


class Cast(Params):
    """Parameters of merge.cast."""

    dtype: Literal["bfloat16", "float16", "float32", "float64"] | None = None
    """What numbers are rounded to; by default the dtype in which the model would be written."""


def _tag(signature: Signature, p: Cast) -> str:
    return STORED_FLOATS[p.dtype] if p.dtype else signature.models[0].dtype


def _rounded(signature: Signature, p: Cast) -> TensorSpec:
    return signature.models[0].with_(dtype=_tag(signature, p))


@op(
    "merge.cast",
    params=Cast,
    models=1,
    infer=_rounded,
    propagates=True,
    cite="IEEE 2019, Standard for Floating-Point Arithmetic, IEEE 754-2019, section 4.3.1",
)
def cast(x: Chunk, p: Cast) -> Tensor:
    """Round to nearest even, as if the model had been written in `dtype` and read again.

    Steps otherwise hand on float32 (float64 for float64 inputs), whatever is written in the end. What is beyond
    float16's range becomes infinite.
    """
    import torch

    dtype: torch.dtype = getattr(torch, str(DTYPES[_tag(x.signature, p)].torch))
    return x.out.copy_(x.models[0].to(dtype))
