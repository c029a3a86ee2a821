"""merge.della: drop small changes more likely than large ones, scale up the rest, elect signs as TIES does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Chunk, op
from surgery_merge._common import weights_of
from surgery_merge._drop import same
from surgery_merge._election import BUFFERS, Elect, Voter, elected
from surgery_merge._rank_drop import (
    SPLITS,
    Della,
    DellaModel,
    Survivors,
    check,
    split_of,
    workspace,
    write,
)
from surgery_merge._rank_op import RankDrop

if TYPE_CHECKING:
    from torch import Tensor


class DellaTies(Della):
    """Parameters of merge.della."""

    normalize: bool = True
    """Divide by the sum of the weights of those that agree."""

    elect: Elect = "mass"
    """How signs are elected: by the sum of the deltas, or by the number of models."""


@op(
    "merge.della",
    split=split_of,
    splits=SPLITS,
    params=DellaTies,
    each=DellaModel,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=True),
    check=check,
    vectors="row",
    buffers=BUFFERS,
    workspace=workspace,
    cite=(
        "Deep et al. 2024, DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling, "
        "arXiv:2406.11617"
    ),
)
class DellaOp(RankDrop):
    """Drop by rank and rescale, then merge what has the elected sign: θ0 + λ·mean of what agrees.

    In each row of a delta (a vector is one row) the probability to be kept rises from density - ε for the smallest |τ|
    to density + ε for the largest; equal ones share it. What is kept is divided by it. The sign of Σ w·τ̂ is elected
    for each element, and Σ w·τ̂ over the models that agree is divided by their Σ w. What is dropped depends on the
    deltas, the seed, the tensor's name, the model's place in the step (sorted by name) and the element's index alone.
    `rescale: l1` holds a tensor whole. `scope: tensor` ranks in the whole tensor instead and holds none: magnitudes
    less than 0.4 % apart may count as equal, and the inputs are read once more, with `l1` twice.
    """

    def merge(self, x: Chunk, p: DellaTies, survivors: Sequence[Survivors]) -> Tensor:
        """Return the merged rows or range."""
        voters = [
            Voter(
                write=partial(write, x, index, left),
                ballot=weight * left.factor,
                gain=weight * left.factor,
                share=weight,
            )
            for index, (weight, left) in enumerate(zip(weights_of(x.signature), survivors, strict=True))
            if left.factor > 0 and weight != 0
        ]
        return elected(x, voters, elect=p.elect, normalize=p.normalize, scale=p.lambda_)
