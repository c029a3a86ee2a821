"""merge.dare_ties: drop elements of the deltas at random, scale up the rest, elect signs as TIES does."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Chunk, Split, op
from surgery_merge._common import Sparse, densities_of, lacks_base, subtract, weights_of
from surgery_merge._drop import Dare, Drop, factors, same, split_of, survivors
from surgery_merge._election import BUFFERS, Elect, Voter, elected

if TYPE_CHECKING:
    from torch import Tensor


class DareTies(Dare):
    """Parameters of merge.dare_ties."""

    elect: Elect = "mass"
    """How signs are elected: by the sum of the deltas, or by the number of models."""


@op(
    "merge.dare_ties",
    split=split_of,
    splits=(Split.ELEMENT, Split.REDUCE),
    version=2,
    params=DareTies,
    each=Sparse,
    base="required",
    simplify=lambda signature, p: same(signature, p, mean=True),
    check=lambda signature, p: lacks_base(signature),
    buffers=BUFFERS,
    cite=(
        "Yu et al. 2024, Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch, "
        "arXiv:2311.03099; "
        "Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708"
    ),
)
class DareTiesOp(Drop):
    """Drop and rescale, then merge what has the elected sign: TIES with random instead of magnitude trimming.

    Each delta keeps an element with probability `density` and divides it by that; the sign of Σ w·τ̂ is elected
    for each element, and Σ w·τ̂ over the models that agree is added to the base. `normalize` divides by their
    Σ w. What is dropped depends on the seed, the tensor's name, the model's place in the step (sorted
    by name) and the element's index alone.
    """

    def apply(self, x: Chunk, p: DareTies, found: list[float] | None) -> Tensor:
        """Return the merged range."""
        rows = zip(weights_of(x.signature), densities_of(x.signature), factors(x, p, found), strict=True)
        voters = [
            Voter(
                # bytes for each element are kept: drawing again would cost more
                write=partial(_write, x, index, None if density >= 1 else survivors(x, index, density)),
                ballot=weight * factor,
                gain=weight * factor,
                share=weight,
            )
            for index, (weight, density, factor) in enumerate(rows)
            if density > 0 and weight != 0
        ]
        return elected(x, voters, elect=p.elect, normalize=p.normalize, scale=p.lambda_)


def _write(x: Chunk, index: int, kept: Tensor | None, out: Tensor) -> None:
    from surgery.math.masks import drop

    subtract(x, index, out)
    if kept is not None:
        drop(out, kept)
