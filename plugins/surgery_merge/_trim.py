"""The thresholds that keep the largest |τ| of each model, found exactly while streaming.

The first pass reads a sample of a large tensor and brackets every model's threshold; a further pass over all
blocks counts what lies inside. A tensor smaller than a sample, and a whole model, is counted at once, from the
bracket of all numbers. Each pass serves all models.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from surgery.errors import OpError
from surgery.ops import SAMPLE_RUN, SAMPLE_RUNS, Chunk, Scan, Signature
from surgery_merge._common import densities_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Bracket, Counted, Threshold

    # For every model what is known of its threshold; None where all or nothing is kept.
    Search = Sequence[Bracket | Threshold | None]
    Part = list[list[Tensor] | Counted | None]

_SAMPLE: Final = SAMPLE_RUNS * SAMPLE_RUN


def keeps(density: float, numel: int) -> int:
    """Return how many of `numel` elements are kept: max(1, floor(d·n)), none for d = 0."""
    if density <= 0 or numel == 0:
        return 0
    return min(max(1, math.floor(density * numel)), numel)


def scan(signature: Signature, found: Search | None, *, sampling: bool) -> Scan | None:
    """Say what to read next: None when every model's threshold is known."""
    from surgery.math.select import Bracket

    if found is None:
        if not any(_is_searched(density, signature.numel) for density in densities_of(signature)):
            return None
        return Scan.SAMPLE if sampling and signature.numel > _SAMPLE else Scan.ALL
    return Scan.ALL if any(isinstance(known, Bracket) for known in found) else None


def gather(x: Chunk, found: Search | None, *, sampling: bool) -> Part:
    """Return what a block (or the sample) says of each model's threshold; uses scratch buffer 0."""
    import torch

    from surgery.math.select import FULL, Bracket, count

    sampled = found is None and sampling and x.signature.numel > _SAMPLE
    base, delta = x.base, x.scratch(0)
    assert base is not None
    part: Part = []
    for index, density in enumerate(densities_of(x.signature)):
        known = FULL if found is None else found[index]
        if isinstance(known, Bracket) and _is_searched(density, x.signature.numel):
            torch.sub(x.models[index], base, out=delta)
            part.append([delta.clone()] if sampled else count(delta, known))
        else:
            part.append(None)
    return part


def fold(total: Part, part: Part) -> Part:
    """Add a block's part to the total. OpError if the blocks are not of the same models."""
    from surgery.math.select import Counted

    if len(total) != len(part):
        raise OpError(
            "scope: model needs every tensor in every model, some lack one; set scope: tensor or `missing: base`"
        )
    for mine, other in zip(total, part, strict=True):
        if isinstance(mine, list) and isinstance(other, list):
            mine += other
        elif isinstance(mine, Counted) and isinstance(other, Counted):
            mine.add(other)
    return total


def solve(signature: Signature, total: Part, found: Search | None) -> Search:
    """Return each model's threshold, or the bracket in which the next pass looks for it."""
    import torch

    from surgery.math.select import FULL, Bracket, bracket_from_sample, refine

    numel = signature.numel
    search: list[Bracket | Threshold | None] = []
    for index, density in enumerate(densities_of(signature)):
        part, known = total[index], FULL if found is None else found[index]
        if isinstance(part, list):
            search.append(bracket_from_sample(torch.cat(part), numel, keeps(density, numel)))
        elif part is not None and isinstance(known, Bracket):
            search.append(refine(part, known, numel, keeps(density, numel)))
        else:
            search.append(None if found is None else known)
    return search


def cutoff(threshold: Threshold | None, *, double: bool) -> float:
    """Return the number that every |τ| below the threshold is at most equal to: the largest one not kept.

    0 keeps everything. Thresholds are float32: float64 deltas are kept if they round to one that is.
    """
    if threshold is None or threshold.bits == 0:
        return 0.0
    below = float(struct.unpack("<f", struct.pack("<I", threshold.bits - 1))[0])
    if not double:
        return below
    half_way = (below + threshold.value) / 2  # rounds to the one whose last bit is 0
    return half_way if threshold.bits & 1 else math.nextafter(half_way, 0.0)


def _is_searched(density: float, numel: int) -> bool:
    return 0 < keeps(density, numel) < numel
