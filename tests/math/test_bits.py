from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.math.bits import bytes_for, pack_bits, unpack_bits


def test_the_first_value_is_the_lowest_bit():
    values = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1, 0]], dtype=torch.bool)
    packed = pack_bits(values)
    assert packed.dtype is torch.uint8
    assert packed.tolist() == [[0b00001101, 1], [0b10000000, 0]]


@given(st.integers(0, 3), st.integers(0, 40), st.integers(0, 10**6))
def test_unpacking_gives_back_what_was_packed(rows, count, seed):
    values = torch.rand(rows, 2, count, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack_bits(values)
    assert packed.shape == (rows, 2, bytes_for(count))
    assert torch.equal(unpack_bits(packed, count), values)


def test_bytes_of_another_number_are_refused():
    with pytest.raises(ValueError, match="bits: 9 bits are 2 bytes, got 1"):
        unpack_bits(torch.zeros(1, dtype=torch.uint8), 9)
