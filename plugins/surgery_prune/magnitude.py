"""prune.magnitude: the smallest weights become 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, Signature, op
from surgery_prune._magnitude import Search, Selecting
from surgery_prune._sparsity import SPLITS, Sparsity, check, pool_of, split_of, untouched

if TYPE_CHECKING:
    from torch import Tensor


class Magnitude(Sparsity):
    """Parameters of prune.magnitude."""


def _same(signature: Signature, p: Magnitude) -> int | None:
    return 0 if untouched(signature, p) else None


@op(
    "prune.magnitude",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=Magnitude,
    models=1,
    simplify=_same,
    check=check,
    vectors="skip",
    note="pruned weights are written as zeros in full size: no file gets smaller and no model faster by itself",
    cite="Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, arXiv:1506.02626",
)
class MagnitudeOp(Selecting):
    """Set the smallest |w| to 0: of n weights that are compared the ⌊s·n⌋ smallest.

    Thresholds are exact. Of a tensor, layer or model, weights that equal the threshold stay, so that no order decides:
    a few fewer than the share may become 0 (bfloat16 has many equal weights). Of a row, or of the M neighbours of an
    N:M pattern, exactly so many stay, of equal ones those of the lower index. The baseline: methods that look at
    activations lose less.
    """

    def __call__(self, x: Chunk, p: Magnitude) -> Tensor:
        """Return whole rows with the smallest weights at 0."""
        return self.apply(x, p, None)

    def apply(self, x: Chunk, p: Magnitude, found: Search | None) -> Tensor:
        """Return the range with the smallest weights at 0."""
        return x.out.copy_(x.models[0]).masked_fill_(self.kept(x, p, found).logical_not_(), 0.0)
