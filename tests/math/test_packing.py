"""Packing of codes: golden words, identity, and compressed-tensors' own packer."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.packing import pack, period, unpack, words_for

BITS = range(2, 9)


def _codes(bits: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 1 << bits, shape, generator=torch.Generator().manual_seed(bits))


def _hex(words: torch.Tensor) -> list[str]:
    return [f"{word & 0xFFFFFFFF:08x}" for word in words.flatten().tolist()]


@pytest.mark.parametrize(
    ("codes", "bits", "words"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 4, ["87654321"]),
        (list(range(8)), 4, ["76543210"]),
        ([0, 1, 2, 3] * 4, 2, ["e4e4e4e4"]),
        ([1, 2, 3, 255], 8, ["ff030201"]),
        (list(range(8)) * 4, 3, ["88fac688", "c688fac6", "fac688fa"]),
        (list(range(8)), 3, ["00fac688"]),
        (list(range(8)), 5, ["8a418820", "00000039"]),
    ],
)
def test_golden_words(codes: list[int], bits: int, words: list[str]) -> None:
    assert _hex(pack(torch.tensor(codes), bits)) == words
    assert unpack(pack(torch.tensor(codes), bits), bits, len(codes)).tolist() == codes


@given(
    bits=st.sampled_from(BITS),
    rows=st.integers(0, 5),
    count=st.integers(0, 70),
    axis=st.sampled_from([0, 1, -1]),
)
@settings(max_examples=60, deadline=None)
def test_unpack_undoes_pack_along_any_axis_and_width(bits: int, rows: int, count: int, axis: int) -> None:
    codes = _codes(bits, rows, count)
    packed = pack(codes, bits, axis)
    assert packed.dtype == torch.int32
    assert packed.shape[axis] == words_for(codes.shape[axis], bits)
    assert torch.equal(unpack(packed, bits, codes.shape[axis], axis), codes.int())


@pytest.mark.parametrize("bits", BITS)
def test_whole_periods_are_packed_apart(bits: int) -> None:
    many, few = period(bits)
    codes = _codes(bits, 2, 3 * many + 1)
    packed = pack(codes, bits)
    assert torch.equal(packed[:, few : 2 * few], pack(codes[:, many : 2 * many], bits))
    assert torch.equal(unpack(packed[:, 2 * few :], bits, many + 1), codes[:, 2 * many :].int())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [9, 31, 32, 45])
@pytest.mark.parametrize("bits", BITS)
def test_words_are_those_of_compressed_tensors(bits: int, count: int, axis: int) -> None:
    shape = (3, count) if axis == 1 else (count, 3)
    codes = _codes(bits, *shape)
    offset = 1 << (bits - 1)  # that packer takes signed codes
    theirs = pack_to_int32((codes - offset).to(torch.int8), bits, packed_dim=axis)
    assert torch.equal(pack(codes, bits, axis), theirs)
    back = unpack_from_int32(theirs, bits, torch.Size(shape), packed_dim=axis)
    assert torch.equal(unpack(theirs, bits, count, axis) - offset, back.int())


def test_codes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="codes go from -1 to 16, 4 bits do not"):
        pack(torch.tensor([-1, 16]), 4)


def test_a_wrong_number_of_words_is_refused() -> None:
    with pytest.raises(ValueError, match=r"9 codes of 4 bits are 2 int32 words, got 1 of torch\.int32"):
        unpack(torch.zeros(1, dtype=torch.int32), 4, 9)


def test_a_width_that_no_format_has_is_refused() -> None:
    with pytest.raises(ValueError, match="codes have 2 to 8 bits, got 9"):
        period(9)


@pytest.mark.parametrize("bits", [4, 8])
def test_bytes_that_fill_whole_words_are_packed_as_any_other_codes(bits: int) -> None:
    codes = _codes(bits, 5, 64)
    assert torch.equal(pack(codes.to(torch.uint8), bits), pack(codes, bits))
    assert torch.equal(pack(codes.to(torch.uint8), bits, axis=0), pack(codes, bits, axis=0))
    with pytest.raises(ValueError, match=r"codes go from 0 to 16, 4 bits do not"):
        pack(torch.tensor([16] + [0] * 7, dtype=torch.uint8), 4)
