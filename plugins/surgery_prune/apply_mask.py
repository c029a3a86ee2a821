"""prune.apply_mask: weights that a mask does not keep become 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.errors import OpError
from surgery.ops import Chunk, NoParams, Signature, Space, op
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


def _as_base(signature: Signature, p: NoParams) -> TensorSpec:
    return signature.first


@op(
    "prune.apply_mask",
    base="required",
    models=1,
    takes=Space.MASK,
    partial=True,
    infer=_as_base,
    note="pruned weights are written as zeros in full size: no file gets smaller and no model faster by itself",
    cite="Zhu, Gupta 2017, To prune, or not to prune: exploring the efficacy of pruning for model compression, "
    "arXiv:1710.01878 (binary masks)",
)
def apply_mask(x: Chunk, p: NoParams) -> Tensor:
    """Set weights to 0 where a mask says so: W⊙m, with W the base and m a mask of prune.mask.

    Tensors without a mask are copied. A mask for a tensor that the base lacks, or of another shape, is found while
    planning; numbers other than 0 and 1 are an OpError. Applying a mask twice is applying it once.
    """
    mask, weights = x.models[0], x.base
    assert weights is not None
    kept, dropped = mask == 1, mask == 0
    if not bool((kept | dropped).all()):
        wrong = float(mask[~(kept | dropped)][0])
        raise OpError(f"{x.signature.name}: a mask holds 0 and 1, got {wrong:g}; make it with prune.mask")
    return x.out.copy_(weights).masked_fill_(dropped, 0.0)
