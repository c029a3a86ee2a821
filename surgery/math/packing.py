"""Codes of 2 to 8 bits side by side in 32-bit words: the dense layout of compressed-tensors, GPTQ and AWQ.

    4 bits   word 0 = code 0 | code 1 << 4 | ... | code 7 << 28
    3 bits   word 0 = code 0 | code 1 << 3 | ... | code 10 << 30    (the upper bit of code 10 begins word 1)

Earlier codes lie in lower bits and a code may straddle two words, so that after `period(bits)` codes the words are
full again: whole periods can be packed and unpacked apart. Both functions work on int32 throughout: shifts drop what
leaves a word, masks drop what a signed shift to the right brings in.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

WORD: Final = 32


def period(bits: int) -> tuple[int, int]:
    """Return the least numbers of codes and of words that fill each other: (8, 1) for 4 bits, (32, 3) for 3."""
    if not 2 <= bits <= 8:
        raise ValueError(f"packing: codes have 2 to 8 bits, got {bits}")
    common = gcd(WORD, bits)
    return WORD // common, bits // common


def words_for(count: int, bits: int) -> int:
    """Return how many 32-bit words hold `count` codes; the last may have bits to spare, which are 0."""
    return -(-count * bits // WORD)


def pack(codes: torch.Tensor, bits: int, axis: int = -1) -> torch.Tensor:
    """Pack codes from 0 to 2^bits - 1 (any integer dtype) along `axis`; returns int32, `words_for(count)` along it.

    Codes out of range are a ValueError: they would spill into their neighbours.
    """
    import torch
    from torch.nn.functional import pad

    _require_range(codes, bits)
    many, few = period(bits)
    last = codes.movedim(axis, -1)
    count = last.shape[-1]
    if bits in (4, WORD // 4) and last.dtype is torch.uint8 and last.is_contiguous() and count % many == 0:
        return _packed_bytes(last, bits).movedim(-1, axis).contiguous()
    rows = last.to(torch.int32)
    full = pad(rows, (0, -count % many))
    full = full.reshape(*rows.shape[:-1], -(-count // many), many)
    words = torch.zeros((*full.shape[:-1], few), dtype=torch.int32, device=codes.device)
    for place, word, low, left in _places(bits):
        words[..., word] |= full[..., place] << low
        if left < bits:
            words[..., word + 1] |= full[..., place] >> left
    return words.flatten(-2)[..., : words_for(count, bits)].movedim(-1, axis).contiguous()


def _require_range(codes: torch.Tensor, bits: int) -> None:
    low, high = (int(end) for end in codes.aminmax()) if codes.numel() else (0, 0)
    if low < 0 or high >= 1 << bits:
        raise ValueError(f"packing: codes go from {low} to {high}, {bits} bits do not")


def _packed_bytes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return what `pack` does of bytes that fill whole words, ten times faster: in memory they lie in order already.

    Two codes of 4 bits, read as a 16-bit number c0 + 256·c1, have c0 + 16·c1 in the low byte of x | x >> 4.
    """
    import torch

    flat = codes.reshape(-1)  # strides of dimensions of size 1 may be anything
    if bits == 4:
        pairs = flat.view(torch.int16)
        flat = (pairs >> 4).bitwise_or_(pairs).to(torch.uint8)
    return flat.view(torch.int32).view(*codes.shape[:-1], codes.shape[-1] * bits // WORD)


def unpack(packed: torch.Tensor, bits: int, count: int, axis: int = -1) -> torch.Tensor:
    """Return the first `count` codes (int32, 0 to 2^bits - 1) along `axis` of int32 words: the inverse of `pack`.

    Words of another number than `words_for(count, bits)` are a ValueError.
    """
    import torch
    from torch.nn.functional import pad

    many, few = period(bits)
    rows = packed.movedim(axis, -1)
    if rows.dtype != torch.int32 or rows.shape[-1] != words_for(count, bits):
        raise ValueError(
            f"packing: {count} codes of {bits} bits are {words_for(count, bits)} int32 words,"
            f" got {rows.shape[-1]} of {rows.dtype}"
        )
    words = pad(rows, (0, -rows.shape[-1] % few))
    words = words.reshape(*rows.shape[:-1], -(-count // many), few)
    codes = torch.empty((*words.shape[:-1], many), dtype=torch.int32, device=packed.device)
    for place, word, low, left in _places(bits):
        codes[..., place] = (words[..., word] >> low) & ((1 << min(bits, left)) - 1)
        if left < bits:
            codes[..., place] |= (words[..., word + 1] & ((1 << (bits - left)) - 1)) << left
    return codes.flatten(-2)[..., :count].movedim(-1, axis).contiguous()


def _places(bits: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield for each code of a period: its place, its word, its lowest bit there, and the bits from there on."""
    for place in range(period(bits)[0]):
        word, low = divmod(place * bits, WORD)
        yield place, word, low, WORD - low
