"""What methods share whose result lies in the span of their inputs: Σ c·θ, or θ0 + Σ c·τ, with c from a Gram matrix.

gather: inner products --> solve: c, a number for each model --> apply: one weighted sum
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from surgery.ops import Chunk, Params, Reduce, Signature
from surgery.scalars import Schedulable
from surgery_merge._common import add_deltas, weighted_sum, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.gram import Matrix

Space = Literal["weight", "delta"]

# Sums of unit vectors shorter than this are rounding errors: their squares come from cosines, good to 1e-16.
CANCELLED = 1e-7


class Counted(Params):
    """Parameters of a model that counts for several, or for less than one."""

    weight: Annotated[float, Schedulable(ge=0)] = 1.0
    """How much the model counts beside the others."""


class Span(Reduce):
    """Gathers the inner products of the models, of their deltas where there is a base; applies the weighted sum."""

    def gather(self, x: Chunk, p: Any, found: None) -> list[list[float]]:
        """Return the inner products over one block."""
        from surgery.math.reduce import gram

        return [gram(x.models, x.base)]

    def fold(self, total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
        """Collect the blocks' products, to be added when all are there."""
        total += part
        return total

    @abstractmethod
    def solve(self, signature: Signature, p: Any, total: list[list[float]], found: None) -> Any:
        """Return the number that each model, or its delta, is multiplied with (or what `apply` is to find them in)."""

    def apply(self, x: Chunk, p: Any, found: Any) -> Tensor:
        """Return the weighted sum of the models, or the base and the sum of their deltas."""
        return weighted_sum(x.models, found, x.out) if x.base is None else add_deltas(x, found, 1.0)


def base_for_space(signature: Signature, space: Space) -> str | None:
    """Return what is wrong if a base is missing for deltas, or is there for nothing."""
    if space == "delta" and signature.base is None:
        return "space: delta needs a base; name one in `base:`"
    if space == "weight" and signature.base is not None:
        return "space: weight has no use for a base; remove `base:` or set space: delta"
    return None


def nothing_counts(signature: Signature) -> str | None:
    """Return what is wrong if all weights are 0."""
    if any(weights_of(signature)):
        return None
    return "the weights are all 0, so that no model counts; give one a weight"


def only_counting(signature: Signature) -> int | None:
    """Return the one model whose weight is not 0, if there is one."""
    counting = [index for index, weight in enumerate(weights_of(signature)) if weight != 0]
    return counting[0] if len(counting) == 1 else None


def mean_direction(C: Matrix, shares: Sequence[float]) -> tuple[Matrix, float]:
    """Return c with |Σ c·û| = 1, from cosines C [T, T] and shares, and how long Σ w·û is where Σ |w| = 1.

    Vectors without a direction, of cosine 0 to themselves, get 0. Where the directions cancel c is 0 as well.
    """
    import numpy as np

    from surgery.math.gram import length

    c = np.array(shares) * np.diagonal(C)
    c /= math.fsum(abs(c)) or 1.0
    size = length(C, c)
    return (c / size if not size < CANCELLED else np.zeros_like(c)), size


def on_sphere(c: Matrix, lengths: Matrix, radius: float) -> list[float]:
    """Return the numbers that inputs of these lengths are multiplied with: radius·Σ c·û, û = x/|x|."""
    return [
        radius * share / size if share else 0.0
        for share, size in zip(c.tolist(), lengths.tolist(), strict=True)
    ]
