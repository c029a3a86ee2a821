"""The k-th largest |x| of a stream, exactly, in bounded memory.

Without its sign bit a float32's bit pattern, read as an integer, is ordered like |x|. So the search is for an
integer: start with a bracket [low, high) of patterns, count in one pass over the stream what lies at or above
`high` and where inside the bracket the rest falls, go on with the bin that holds the wanted rank.

                       low        the wanted rank is here                high
    |x|:  ...............[....|....|....|####|....|....|....|....|....)................ inf, nan
             below:           inside: a histogram of (pattern - low) >> shift      above: a number
             implied

    a sample -> a bracket of some standard errors -> Threshold                    one pass, nearly always
    FULL -> the upper 15 bits -> the lower 16 bits -> Threshold                   two passes, without a sample
    a bracket that missed -> the known side of it -> one bin -> Threshold         three passes at worst

A caller loops: while what is sought is a Bracket, count all blocks through it, add up, refine. The result
never depends on how the stream is cut or on the order of its blocks, for only integers are added. NaN and Inf
are above every number, so that they are found rather than lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from surgery.math.count import PENDING, Bracket, Counted, count
from surgery.math.patterns import (
    TOP,
    Patterns,
    device_patterns,
    drop_signs,
    largest,
    pattern_of,
    patterns_of,
    value_of,
)
from surgery.math.scratch import scratch
from surgery.ops import SAMPLE_RUN

__all__ = [
    "FULL",
    "Bracket",
    "Counted",
    "Threshold",
    "bracket_from_sample",
    "count",
    "keep",
    "kth_largest",
    "refine",
]

# Up to this many patterns are told apart in one pass. A wider bracket needs another pass anyway, so its
# histogram is made small enough for the cache: the bin that follows has 2^16 patterns.
_FINE_BINS: Final = 1 << 20
_COARSE_SHIFT: Final = 16

# Standard errors of the rank on either side of it. A normal rank lies outside once in 16,000, 370, 22 and 7 times,
# and then two more passes are needed; a bracket too wide for one pass always costs one more. So the widest that
# will do for one pass is taken.
_SIGMAS: Final = (4.0, 3.0, 2.0, 1.5)

FULL: Final = Bracket(0, TOP, _COARSE_SHIFT)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The k-th largest |x|: its pattern and value, how many elements are above it and how many equal it."""

    bits: int
    value: float
    above: int
    equal: int


def bracket_from_sample(sample: Tensor, numel: int, k: int) -> Bracket:
    """Return a bracket that very likely holds the k-th largest |x| of `numel`, judged by a sample of them.

    The sample is float32, 1-D; a sample of everything gives the one pattern sought. It is taken to be runs of
    SAMPLE_RUN neighbours. These resemble each other (rows differ in scale), so the error of the rank is the
    larger of the binomial one and the one that the scatter between runs shows.
    """
    _require_rank("bracket_from_sample", numel, k)
    bits = patterns_of(sample)
    size, ordered = bits.size, np.sort(bits)[::-1]
    if size >= numel:
        found = int(ordered[k - 1])
        return Bracket(found, found + 1, 0)
    wanted = k * size / numel
    error = _rank_error(bits, wanted, int(ordered[min(round(wanted), size - 1)]))
    brackets = []
    for sigmas in _SIGMAS:
        first, last = math.floor(wanted - sigmas * error - 1), math.ceil(wanted + sigmas * error + 1)
        high = int(ordered[first - 1]) + 1 if first >= 1 else TOP
        low = int(ordered[last - 1]) if last <= size else 0
        brackets.append(_fitted(low, high))
        # so few inside are kept as they are, however wide the bracket
        if brackets[-1].shift == 0 or (last - first) * numel <= PENDING * size:
            return brackets[-1]
    return brackets[0]


def refine(counted: Counted, bracket: Bracket, numel: int, k: int) -> Bracket | Threshold:
    """Return the k-th largest of `numel` elements, or what to count next when `counted` does not tell.

    `counted` is the total of all blocks, seen through `bracket`. Raises ValueError when k is not in 1..numel.
    """
    _require_rank("refine", numel, k)
    if k <= counted.above:
        return _fitted(bracket.high, TOP)
    if k > counted.above + counted.inside:
        return _fitted(0, bracket.low)
    index, shift, above, equal = counted.locate(k - counted.above)
    low = bracket.low + (index << shift)
    if shift:
        return _fitted(low, min(low + (1 << shift), bracket.high))
    return Threshold(low, value_of(low), counted.above + above, equal)


def kth_largest(x: Tensor, k: int) -> float:
    """Return the k-th largest |x| of a tensor in memory, of any shape, as `refine` finds it for a stream.

    By partition of the patterns on the CPU, 1 ns per element of a block, 10 of a large tensor.
    """
    _require_rank("kth_largest", x.numel(), k)
    if x.is_cpu:
        return value_of(largest(patterns_of(x), k))
    bits = device_patterns(x.reshape(-1))
    return value_of(int(torch.kthvalue(bits, x.numel() - k + 1).values))


def keep(x: Tensor, threshold: Threshold | float) -> Tensor:
    """Return where |x| >= threshold, as bool in the shape of `x`; NaN is kept.

    A threshold given as a float is rounded to float32.
    """
    bits = threshold.bits if isinstance(threshold, Threshold) else pattern_of(threshold)
    if not x.is_cpu:
        return device_patterns(x) >= bits
    magnitude: Patterns = scratch("bits", np.uint32, x.numel())
    drop_signs(x, magnitude)
    return torch.from_numpy((magnitude >= np.uint32(bits)).reshape(x.shape))


def _require_rank(where: str, numel: int, k: int) -> None:
    if not 1 <= k <= numel:
        raise ValueError(f"{where}: k must be between 1 and the number of elements, {numel}, got {k}")


def _fitted(low: int, high: int) -> Bracket:
    return Bracket(low, high, 0 if high - low <= _FINE_BINS else _COARSE_SHIFT)


def _rank_error(bits: Patterns, wanted: float, threshold: int) -> float:
    """Return the standard error of the rank `wanted`, about `threshold`: that of draws or of runs."""
    binomial = math.sqrt(max(wanted * (1 - wanted / bits.size), 0.0))
    runs = bits.size // SAMPLE_RUN
    if runs < 2:
        return binomial
    hits = np.count_nonzero(bits[: runs * SAMPLE_RUN].reshape(runs, SAMPLE_RUN) >= threshold, axis=1)
    return max(binomial, math.sqrt(float(np.var(hits)) * runs))
