"""Random numbers that are a function of what they are for, not of when they are drawn.

Philox4x64-10 (Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011) turns a key and
a counter into four 64-bit words. The key says what is drawn: (seed, op, tensor, stream); the counter says for
which elements. So a draw does not depend on chunking, threads, order or device.

    element      8j      8j+1    8j+2    8j+3    8j+4    8j+5    8j+6    8j+7
    counter j    word 0          word 1          word 2          word 3
                 low     high    low     high    low     high    low     high      32 bits each

A lane becomes a uniform number in [0, 1) by its upper 24 bits: (lane >> 8) * 2^-24, exact in float32. Whether an
element is kept or dropped takes 16 bits (`keep`), in the same order: element 16j is the lowest quarter of word 0 of
counter j. The numbers are part of what a recipe means: what changes them raises `version`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

KEY_BYTES: Final = 16
_LANES: Final = 8  # per counter
_UNIT: Final = 2.0**-24

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL: Final = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW: Final = 0xFFFFFFFF
_SHORT: Final = 0xFFFF
_WORD: Final = 0xFFFFFFFFFFFFFFFF
_COUNTERS: Final = 1 << 256

# Numbers drawn at a time on the CPU, a multiple of the lanes: their bytes stay in cache, and in malloc's heap.
_PIECE: Final = 1 << 14

_QUARTERS: Final = 16  # 16-bit lanes per counter
_GROUP: Final = 1 << 15  # elements that share a threshold; a multiple of _QUARTERS, part of what is drawn


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless sequence of uniform numbers, one for each element of a tensor."""

    key: bytes

    def uniform(self, start: int, out: Tensor) -> Tensor:
        """Fill `out` with the numbers of the elements from `start` on; see `uniform`."""
        return uniform(self.key, start, out)


def stream_key(seed: int, op: str, tensor: str, stream: int, version: int = 1) -> bytes:
    """Return the 16-byte key of a stream: xxh3-128 of its parts, each led by its length."""
    parts = (str(version), str(seed), op, tensor, str(stream))
    digest = xxhash.xxh3_128()
    for part in parts:
        text = part.encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()


def uniform(key: bytes, start: int, out: Tensor) -> Tensor:
    """Fill `out` (float32 or float64, contiguous, any shape) with the numbers of elements start, start+1, ...

    Returns `out`. The same numbers on every device. Measured on a busy core of 2.5 GHz: 4.9 ns a draw, of which
    numpy's generator takes 3.5, without holding other threads up.
    """
    if not out.is_cpu:
        return uniform_on_device(key, start, out)
    _fill(out.view(-1).numpy(), _words(key), start)
    return out


def keep(key: bytes, start: int, probability: float, out: Tensor) -> Tensor:
    """Fill `out` (bool, contiguous, any shape) with whether elements start, start+1, ... are kept, and return it.

    An element is kept if its 16 bits are below ⌊probability·2^16 + v⌋, with one uniform v in [0, 1) of 53 bits for
    each 2^15 elements: so the probability is met exactly, though 16 bits alone know only multiples of 2^-16. Measured
    on a busy core of 2.5 GHz: 1.8 ns an element, against 5.3 for `uniform` and a comparison.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"keep: a probability lies between 0 and 1, got {probability:g}")
    if out.is_cpu:
        _keep(out.view(-1).numpy(), key, start, probability)
        return out
    return keep_on_device(key, start, probability, out)


def keep_on_device(key: bytes, start: int, probability: float, out: Tensor) -> Tensor:
    """Do what `keep` does, bit for bit, by torch operations on int64 where `out` is."""
    size, (first, skip) = out.numel(), divmod(start, _QUARTERS)
    lanes = _split(out.device, _words(key), first, -(-(skip + size) // _QUARTERS), bits=16)[
        skip : skip + size
    ]
    groups = range(start // _GROUP, -(-(start + size) // _GROUP))
    below = torch.tensor(_thresholds(key, groups, probability), device=out.device)
    of_group = torch.arange(start % _GROUP, start % _GROUP + size, device=out.device) // _GROUP
    return out.copy_((lanes < below[of_group]).view(out.shape)) if size else out


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Return numbers of N(0, 1) from two tensors of uniform ones in [0, 1), in their shape and dtype.

    √(-2·ln(1-u))·cos(2πv) (Box, Muller, A note on the generation of random normal deviates, 1958). Of 24-bit uniform
    numbers the largest is 5.77. In float64, so that what is rounded to float32 is the same on every device.
    """
    return torch.sqrt(-2 * torch.log1p(-first)) * torch.cos(2 * torch.pi * second)


def uniform_on_device(key: bytes, start: int, out: Tensor) -> Tensor:
    """Do what `uniform` does, bit for bit, by torch operations on int64 where `out` is."""
    first, skip = divmod(start, _LANES)
    blocks = -(-(skip + out.numel()) // _LANES)
    lanes = _split(out.device, _words(key), first, blocks, bits=32) >> 8
    out.copy_(lanes[skip : skip + out.numel()].view(out.shape))
    return out.mul_(_UNIT)


def _words(key: bytes) -> tuple[int, int]:
    if len(key) != KEY_BYTES:
        raise ValueError(f"uniform: a key has {KEY_BYTES} bytes, got {len(key)}; make it with `stream_key`")
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")


def _fill(out: npt.NDArray[Any], key: tuple[int, int], start: int) -> None:
    """Fill `out` by numpy's generator, piece by piece: it has no `out=`, and a large array is slow to come by."""
    first, skip = divmod(start, _LANES)
    generator = _generator(key, first)
    unit = out.dtype.type(_UNIT)
    for at in range(-skip, out.size, _PIECE):
        lanes = np.asarray(generator.random_raw(min(_PIECE, out.size - at + 1) // 2)).view(np.uint32)
        np.right_shift(lanes, np.uint32(8), out=lanes)
        piece = out[max(at, 0) : at + _PIECE]
        # below 2^24 int32 says the same and converts faster
        np.copyto(piece, lanes.view(np.int32)[max(-at, 0) :][: piece.size], casting="unsafe")
        np.multiply(piece, unit, out=piece)


def _keep(out: npt.NDArray[np.bool_], key: bytes, start: int, probability: float) -> None:
    """Fill `out` by numpy's generator, group by group."""
    first, skip = divmod(start, _QUARTERS)
    generator = _generator(_words(key), first)
    groups = range(start // _GROUP, -(-(start + out.size) // _GROUP))
    for group, below in zip(groups, _thresholds(key, groups, probability), strict=True):
        at, until = max(group * _GROUP - start, 0), min((group + 1) * _GROUP - start, out.size)
        # groups end where counters do, so that only the first may begin within one
        lanes = np.asarray(generator.random_raw((skip + until - at + 3) // 4)).view(np.uint16)[skip:]
        if below > _SHORT:
            out[at:until] = True
        else:
            np.less(lanes[: until - at], below, out=out[at:until])
        skip = 0


def _thresholds(key: bytes, groups: range, probability: float) -> list[int]:
    """Return ⌊probability·2^16 + v⌋ of each group; the upper 53 bits of xxh3-64 of key and group make its v."""
    return [
        math.floor(probability * (_SHORT + 1) + (_hashed(key, group) >> 11) * 2.0**-53) for group in groups
    ]


def _hashed(key: bytes, group: int) -> int:
    return xxhash.xxh3_64_intdigest(key + group.to_bytes(8, "little"))


def _generator(key: tuple[int, int], counter: int) -> np.random.Philox:
    """Return numpy's generator, which gives the words of a counter and then of those that follow."""
    counter = (counter - 1) % _COUNTERS  # numpy adds one before its first output
    return np.random.Philox(
        key=np.array(key, np.uint64),
        counter=np.array([counter >> shift & _WORD for shift in (0, 64, 128, 192)], np.uint64),
    )


def _split(device: torch.device, key: tuple[int, int], first: int, blocks: int, bits: int) -> Tensor:
    """Return the words of counters first, first+1, ... in lanes of 16 or 32 bits, computed on a device; int64."""
    counters = torch.arange(first, first + blocks, dtype=torch.int64, device=device)
    zeros = torch.zeros_like(counters)
    words = torch.stack(_philox([counters, zeros, zeros, zeros], key), dim=1)
    lanes = [(words >> shift) & ((1 << bits) - 1) for shift in range(0, 64, bits)]
    return torch.stack(lanes, dim=2).reshape(-1)


def _philox(c: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Return the ten rounds of Philox4x64 on four words of counter; int64 tensors hold the 64 bits."""
    for turn in range(_ROUNDS):
        k0, k1 = (_signed(word + turn * step) for word, step in zip(key, _WEYL, strict=True))
        high0, low0 = _multiply(_MULTIPLIERS[0], c[0])
        high1, low1 = _multiply(_MULTIPLIERS[1], c[2])
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
    return c


def _multiply(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper and lower 64 bits of factor·x, unsigned, from products of 32-bit halves."""
    factor_low, factor_high = factor & _LOW, factor >> 32
    low, high = x & _LOW, _shifted(x)
    middle = factor_high * low + _shifted(factor_low * low)
    rest = factor_low * high + (middle & _LOW)
    return factor_high * high + _shifted(middle) + _shifted(rest), x * _signed(factor)


def _shifted(x: Tensor) -> Tensor:
    """Return the upper half of 64 bits; a shift of int64 alone would carry the sign along."""
    return (x >> 32) & _LOW


def _signed(word: int) -> int:
    """Return the int64 whose 64 bits are those of `word`."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word
