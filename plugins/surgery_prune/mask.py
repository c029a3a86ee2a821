"""prune.mask: where the weights stay, as a model of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.ops import Chunk, Description, Made, Signature, Space, op
from surgery.tensors import TensorSpec
from surgery_prune._magnitude import Search, Selecting
from surgery_prune._sparsity import SPLITS, Sparsity, check, pool_of, split_of, untouched

if TYPE_CHECKING:
    from torch import Tensor


class Mask(Sparsity):
    """Parameters of prune.mask."""


def _stored(signature: Signature, p: Any) -> TensorSpec:
    """Return the mask's spec: safetensors has no smaller type than a byte."""
    return TensorSpec(signature.name, signature.first.shape, "BOOL")


def _left_out(signature: Signature, p: Mask) -> int | None:
    """Return what stands for `nothing to do`: a tensor of which everything stays has no mask."""
    return 0 if untouched(signature, p) else None


def _described(made: Made, p: Mask) -> Description:
    """Return a config that no loader takes for a model's; roles come from the model that the mask is applied to."""
    return Description({"mask_of": made.config.get("model_type")}, "mask.json", sidecars=False)


@op(
    "prune.mask",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Mask,
    models=1,
    gives=Space.MASK,
    rest="drop",
    infer=_stored,
    simplify=_left_out,
    check=check,
    vectors="skip",
    describe=_described,
    cite="Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, arXiv:1506.02626",
)
class MaskOp(Selecting):
    """Make a mask: true where prune.magnitude with the same parameters keeps the weight, false where it sets it to 0.

    Stored as BOOL, a byte per weight. Tensors of which nothing is pruned have no mask. For a trainer that keeps zeros
    at zero, and for prune.apply_mask.
    """

    def __call__(self, x: Chunk, p: Mask) -> Tensor:
        """Return 1 where whole rows' weights stay, 0 elsewhere."""
        return self.apply(x, p, None)

    def apply(self, x: Chunk, p: Mask, found: Search | None) -> Tensor:
        """Return 1 where the range's weights stay, 0 elsewhere."""
        return x.out.copy_(self.kept(x, p, found))
