"""The k-th largest |x| of several streams at once, found exactly while streaming.

The first pass reads a sample of a large tensor and brackets every number that is sought; a further pass over all
blocks counts what lies inside. A tensor smaller than a sample, and what MODEL ops gather over, is counted at once,
from the bracket of all numbers. Each pass serves all ranks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.errors import OpError
from surgery.ops import SAMPLE_RUN, SAMPLE_RUNS, Scan

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Bracket, Counted, Threshold

    # For every rank what is known of it; None where it is not sought.
    Search = Sequence[Bracket | Threshold | None]
    Part = list[list[Tensor] | Counted | None]

_SAMPLE: Final = SAMPLE_RUNS * SAMPLE_RUN


@dataclass(frozen=True, slots=True)
class Rank:
    """The k-th largest |x| of a stream of values, k counted from 1."""

    stream: int
    k: int


Ranks = Sequence[Rank | None]


def scan(ranks: Ranks, numel: int, found: Search | None, *, sampling: bool) -> Scan | None:
    """Say what to read next: None when every rank of `numel` elements is known."""
    if found is None:
        if not any(ranks):
            return None
        return Scan.SAMPLE if sampled(numel, sampling=sampling) else Scan.ALL
    return None if settled(found) else Scan.ALL


def sampled(numel: int, *, sampling: bool) -> bool:
    """Return whether the first pass reads a sample of `numel` elements."""
    return sampling and numel > _SAMPLE


def gather(
    ranks: Ranks, numel: int, values: Callable[[int], Tensor], found: Search | None, *, sampling: bool
) -> Part:
    """Return what a block (or the sample) says of each rank; `values` gives a stream's, in a buffer of its own.

    Ranks of one stream stand next to each other, so that its values are computed once.
    """
    from surgery.math.select import FULL, Bracket, count

    collecting = found is None and sampled(numel, sampling=sampling)
    part: Part = []
    stream, x = -1, None
    for index, rank in enumerate(ranks):
        known = FULL if found is None else found[index]
        if rank is None or not isinstance(known, Bracket):
            part.append(None)
            continue
        if rank.stream != stream or x is None:
            stream, x = rank.stream, values(rank.stream)
        part.append([x.clone()] if collecting else count(x, known))
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


def solve(ranks: Ranks, numel: int, total: Part, found: Search | None) -> Search:
    """Return each rank's threshold, or the bracket in which the next pass looks for it."""
    import torch

    from surgery.math.select import FULL, Bracket, Counted, bracket_from_sample, refine

    search: list[Bracket | Threshold | None] = []
    for index, rank in enumerate(ranks):
        part, known = total[index], FULL if found is None else found[index]
        if rank is not None and isinstance(part, list):
            search.append(bracket_from_sample(torch.cat(part), numel, rank.k))
        elif rank is not None and isinstance(part, Counted) and isinstance(known, Bracket):
            search.append(refine(part, known, numel, rank.k))
        else:
            search.append(None if found is None else known)
    return search


def settled(search: Search) -> bool:
    """Return whether every rank is known."""
    from surgery.math.select import Bracket

    return not any(isinstance(known, Bracket) for known in search)


def thresholds(search: Search) -> list[Threshold | None]:
    """Return the thresholds of a search that is settled; None for ranks that are not sought."""
    from surgery.math.select import Bracket

    return [None if isinstance(known, Bracket) else known for known in search]


def below(threshold: Threshold | None, *, double: bool) -> float:
    """Return the largest number whose magnitude is below the threshold; 0 if there is none.

    Thresholds are float32: a float64 is below if it rounds to a float32 that is.
    """
    return 0.0 if threshold is None or threshold.bits == 0 else _last_of(threshold.bits - 1, double=double)


def up_to(threshold: Threshold | None, *, double: bool) -> float:
    """Return the largest number that equals the threshold when it is rounded to float32; infinite without one."""
    return math.inf if threshold is None else _last_of(threshold.bits, double=double)


def _last_of(bits: int, *, double: bool) -> float:
    """Return the largest number that has a float32 pattern, or is rounded to it."""
    value, after = struct.unpack("<2f", struct.pack("<2I", bits, bits + 1))
    if not double:
        return float(value)
    half_way = (value + after) / 2  # rounds to the one whose last bit is 0
    return float(math.nextafter(half_way, 0.0) if bits & 1 else half_way)
