"""Norms of deltas over a tensor, a layer or the whole model; merge.metagpt and merge.renorm share them."""

from __future__ import annotations

from surgery.ops import Chunk
from surgery_merge._common import subtract


def squares(x: Chunk) -> list[list[float]]:
    """Return the squared norm of each model's delta over a block, in lists of one; uses scratch buffer 0."""
    from surgery.math.reduce import squared_norm

    delta = x.scratch(0)
    return [[squared_norm(subtract(x, index, delta))] for index in range(len(x.models))]


def fold(total: list[list[float]], part: list[list[float]]) -> list[list[float]]:
    """Collect the blocks' norms, kept apart so that their sum has no order."""
    for mine, other in zip(total, part, strict=True):
        mine += other
    return total


def sums(total: list[list[float]]) -> list[float]:
    """Return each model's squared norm, rounded once."""
    from surgery.math.reduce import exact_sum

    return [exact_sum(parts) for parts in total]
