"""The k-th largest |x| of a stream, exactly, in bounded memory.

Without its sign bit a float32's bit pattern, read as an integer, is ordered like |x| (and -0 is 0). So the
search is for an integer: start with a bracket [low, high) of patterns, count in one pass over the stream what
lies at or above `high` and where inside the bracket the rest falls, go on with the bin that holds the wanted
rank.

                       low        the wanted rank is here                high
    |x|:  ...............[....|....|....|####|....|....|....|....|....)................ inf, nan
             below:           inside: a histogram of (pattern - low) >> shift      above: a number
             implied

    sample (65,536 elements) -> bracket of 8 standard errors -> one pass -> Threshold          the usual way
    FULL -> histogram of the upper 15 bits -> one bin -> histogram of the lower 16 -> Threshold    without a sample
    a bracket that missed -> everything on the known side -> one bin -> Threshold          three passes at worst

The result never depends on how the stream is cut or on the order of its blocks: only integers are added. NaN
and Inf are above every number, so that they are found rather than lost. Values are compared as float32:
float64 is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgery.math.scratch import scratch
from surgery.ops import BLOCK, SAMPLE_RUN

Patterns = npt.NDArray[np.uint32]

_MAGNITUDE: Final = 0x7FFFFFFF
_TOP: Final = 1 << 31  # above every pattern
_WORD: Final = 8  # truth values compared at a time

# Up to this many patterns are told apart in one pass. A wider bracket needs another pass anyway, so its
# histogram is made small enough for the cache: the bin that follows has 2^16 patterns.
_FINE_BINS: Final = 1 << 20
_COARSE_SHIFT: Final = 16

# A total keeps this many offsets as they are (4 MiB, exact whatever the bracket's shift) before it counts
# them.
_PENDING: Final = 1 << 20

# Standard errors of the rank on either side: the bracket of a sample misses about once in 10,000 tensors.
_SIGMAS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Bracket:
    """The patterns [low, high), seen in bins of 2^shift."""

    low: int
    high: int
    shift: int

    @property
    def bins(self) -> int:
        """Return the number of bins."""
        return -((self.low - self.high) >> self.shift)


FULL: Final = Bracket(0, _TOP, _COARSE_SHIFT)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The k-th largest |x|: its pattern, its value, how many elements are strictly above it and how many equal it."""

    bits: int
    value: float
    above: int
    equal: int


@dataclass(slots=True)
class Counted:
    """What blocks contribute: elements at or above the bracket, elements inside, and where these are.

    Offsets (pattern - low) are kept while they are few, and a histogram after that: at most 12 MiB in all. It
    is the one mutable record here, because the total of a large tensor would otherwise be copied for every
    block.
    """

    bins: int
    shift: int
    above: int
    inside: int
    pending: int = 0  # offsets kept
    offsets: list[Patterns] = field(default_factory=list)
    histogram: npt.NDArray[np.int64] | None = None

    def add(self, other: Counted) -> Counted:
        """Take up what other blocks, seen through the same bracket, contribute; changes self and returns it."""
        self.above += other.above
        self.inside += other.inside
        self.offsets += other.offsets
        self.pending += other.pending
        if other.histogram is not None:
            self._count(other.histogram)
        if self.pending > _PENDING:
            self._settle()
        return self

    def _count(self, histogram: npt.NDArray[np.int64]) -> None:
        if self.histogram is None:
            self.histogram = histogram.copy()
        else:
            self.histogram += histogram

    def _settle(self) -> None:
        if self.offsets:
            offsets = torch.from_numpy(np.concatenate(self.offsets).view(np.int32))
            self._count(_histogram(offsets, self.bins, self.shift))
            self.offsets, self.pending = [], 0

    def locate(self, rank: int) -> tuple[int, int, int, int]:
        """Find the `rank`-th largest inside: its bin, the bin's shift, how many are in higher bins and in its own."""
        if self.histogram is None:
            offsets = np.concatenate(self.offsets)
            found = _largest(offsets, rank)
            return found, 0, int(np.count_nonzero(offsets > found)), int(np.count_nonzero(offsets == found))
        self._settle()
        up_to = np.cumsum(self.histogram)
        index = int(np.searchsorted(up_to, self.inside - rank + 1))
        return index, self.shift, self.inside - int(up_to[index]), int(self.histogram[index])


def bracket_from_sample(sample: Tensor, numel: int, k: int) -> Bracket:
    """Return a bracket that very likely holds the k-th largest |x| of `numel`, judged by a sample of them.

    The sample is float32, 1-D; a sample of everything gives the one pattern sought. It is taken to be runs of
    SAMPLE_RUN neighbours: they resemble each other (rows differ in scale), so the error of the rank is the
    larger of the binomial one and the one that the scatter between runs shows.
    """
    bits = _patterns(sample)
    if bits.size >= numel:
        found = _largest(bits, k)
        return Bracket(found, found + 1, 0)
    wanted = k * bits.size / numel
    spread = _SIGMAS * _rank_error(bits, wanted) + 1
    first, last = math.floor(wanted - spread), math.ceil(wanted + spread)
    high = _largest(bits, first) + 1 if first >= 1 else _TOP
    low = _largest(bits, last) if last <= bits.size else 0
    return _fitted(low, high)


def count(x: Tensor, bracket: Bracket) -> Counted:
    """Count a block of float32, 1-D, of any sign, through a bracket.

    Measured on one core, blocks of BLOCK elements: 0.8 ns per element where 1.6 % are inside, of which 0.15
    drops the signs, 0.35 compares, 0.1 counts and the rest collects; 2.5 ns for FULL.
    """
    if x.numel() == 0:
        return Counted(bracket.bins, bracket.shift, 0, 0)
    blocks = (_count_block(part, bracket) for part in _blocks(x))
    total = next(blocks)
    for block in blocks:
        total.add(block)
    return total


def refine(counted: Counted, bracket: Bracket, numel: int, k: int) -> Bracket | Threshold:
    """Return the k-th largest of `numel` elements if `counted`, seen through `bracket`, says; else what to count next.

    Raises ValueError when k is not in 1..numel.
    """
    if not 1 <= k <= numel:
        raise ValueError(f"refine: k must be between 1 and the number of elements, {numel}, got {k}")
    if k <= counted.above:
        return _fitted(bracket.high, _TOP)
    if k > counted.above + counted.inside:
        return _fitted(0, bracket.low)
    index, shift, above, equal = counted.locate(k - counted.above)
    low = bracket.low + (index << shift)
    if shift:
        return _fitted(low, min(low + (1 << shift), bracket.high))
    return Threshold(low, _value(low), counted.above + above, equal)


def kth_largest(x: Tensor, k: int) -> float:
    """Return the k-th largest |x| of a tensor in memory, of any shape, as `refine` finds it for a stream.

    On the CPU by partition of the patterns, 1 to 2 ns per element.
    """
    if not 1 <= k <= x.numel():
        raise ValueError(f"kth_largest: k must be between 1 and the number of elements, {x.numel()}, got {k}")
    if x.device.type == "cpu":
        return _value(_largest(_patterns(x), k))
    bits = _device_bits(x.reshape(-1))
    return _value(int(torch.kthvalue(bits, x.numel() - k + 1).values))


def keep(x: Tensor, threshold: Threshold | float) -> Tensor:
    """Return where |x| >= threshold (a float is rounded to float32), as bool in the shape of `x`; NaN is kept."""
    bits = threshold.bits if isinstance(threshold, Threshold) else _pattern_of(threshold)
    if x.device.type != "cpu":
        return _device_bits(x) >= bits
    magnitude = scratch("bits", np.uint32, x.numel())
    _drop_signs(x, magnitude)
    return torch.from_numpy(np.greater_equal(magnitude, np.uint32(bits))).view(x.shape)


def _fitted(low: int, high: int) -> Bracket:
    return Bracket(low, high, 0 if high - low <= _FINE_BINS else _COARSE_SHIFT)


def _rank_error(bits: Patterns, wanted: float) -> float:
    """Return the standard error of the rank `wanted` in a sample, as independent draws and as runs have it."""
    binomial = math.sqrt(max(wanted * (1 - wanted / bits.size), 0.0))
    runs = bits.size // SAMPLE_RUN
    if runs < 2:
        return binomial
    threshold = _largest(bits, min(max(round(wanted), 1), bits.size))
    hits = np.count_nonzero(bits[: runs * SAMPLE_RUN].reshape(runs, SAMPLE_RUN) >= threshold, axis=1)
    return max(binomial, math.sqrt(float(np.var(hits)) * runs))


def _blocks(x: Tensor) -> Iterator[Tensor]:
    flat = x.reshape(-1)
    return (flat[start : start + BLOCK] for start in range(0, flat.numel(), BLOCK))


def _count_block(x: Tensor, bracket: Bracket) -> Counted:
    above, offsets = _inside(x, bracket) if x.device.type == "cpu" else _inside_on_device(x, bracket)
    inside, bins, shift = offsets.numel(), bracket.bins, bracket.shift
    # A histogram is the smaller part when the bins are few. It loses the lowest bits where the shift is not
    # zero: then it must be worth it, for the offsets of a few elements may give the answer without another
    # pass.
    if 2 * bins <= inside and (shift == 0 or 8 * inside > x.numel()):
        return Counted(bins, shift, above, inside, histogram=_histogram(offsets, bins, shift))
    kept = [offsets.cpu().numpy().view(np.uint32).copy()] if inside else []
    return Counted(bins, shift, above, inside, inside, kept)


def _histogram(offsets: Tensor, bins: int, shift: int) -> npt.NDArray[np.int64]:
    """Count offsets by bin: torch's bincount, because numpy's keeps other threads waiting."""
    counts: npt.NDArray[np.int64] = torch.bincount(offsets >> shift, minlength=bins).cpu().numpy()
    return counts


def _inside(x: Tensor, bracket: Bracket) -> tuple[int, Tensor]:
    """Return how many are at or above the bracket, and the offsets of those inside (maybe in a scratch buffer).

    Few are inside, so words of eight truth values are looked through before single elements are: looking
    through bytes for 1.6 % of ones costs four times as much.
    """
    size = x.numel()
    padded = -(-size // _WORD) * _WORD
    bits = scratch("bits", np.uint32, padded)
    _drop_signs(x, bits[:size])
    if bracket.low == 0 and bracket.high == _TOP:
        return 0, torch.from_numpy(bits[:size].view(np.int32))
    bits[size:] = 0xFFFFFFFF  # in no bracket
    under_low, under_high = scratch("low", np.bool_, padded), scratch("high", np.bool_, padded)
    np.less(bits, np.uint32(bracket.low), out=under_low)
    np.less(bits, np.uint32(bracket.high), out=under_high)
    words = np.flatnonzero(under_low.view(np.uint64) != under_high.view(np.uint64))
    near = bits.reshape(-1, _WORD).take(words, axis=0).ravel()
    near -= np.uint32(bracket.low)
    offsets = near.take(np.flatnonzero(near < np.uint32(bracket.high - bracket.low)))
    return size - int(np.count_nonzero(under_high)), torch.from_numpy(offsets.view(np.int32))


def _inside_on_device(x: Tensor, bracket: Bracket) -> tuple[int, Tensor]:
    """Do as `_inside` in torch operations; the offsets stay on the device."""
    bits = _device_bits(x)
    under_high = bits <= bracket.high - 1
    offsets = bits[under_high & (bits >= bracket.low)] - bracket.low
    return x.numel() - int(torch.count_nonzero(under_high)), offsets


def _device_bits(x: Tensor) -> Tensor:
    return x.to(torch.float32).view(torch.int32) & _MAGNITUDE


def _drop_signs(x: Tensor, out: Patterns) -> None:
    values: npt.NDArray[Any] = x.reshape(-1).to(torch.float32).numpy()
    np.bitwise_and(values.view(np.uint32), np.uint32(_MAGNITUDE), out=out)


def _patterns(x: Tensor) -> Patterns:
    bits = np.empty(x.numel(), np.uint32)
    _drop_signs(x.cpu(), bits)
    return bits


def _largest(bits: Patterns, rank: int) -> int:
    """Return the `rank`-th largest, counted from 1."""
    index = bits.size - rank
    return int(np.partition(bits, index)[index])


def _value(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


def _pattern_of(value: float) -> int:
    return int(np.float32(max(value, 0.0)).view(np.uint32))
