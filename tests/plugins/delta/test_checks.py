"""What tells one base from another."""

from __future__ import annotations

import struct

import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery_delta._checks import checks
from surgery_delta._stored import block_rows
from tests.plugins.delta.conftest import normal


def pattern(*numbers: float) -> int:
    return sum(struct.unpack("<i", struct.pack("<f", number))[0] for number in numbers)


def test_it_is_the_sum_of_the_patterns_modulo_two_to_the_32():
    assert (pattern(1), pattern(2), pattern(0.5)) == (0x3F800000, 0x40000000, 0x3F000000)
    assert checks(torch.tensor([[1.0], [0.0]])).tolist() == [0x3F800000]
    assert checks(torch.tensor([[1.0, 2.0], [0.5, 0.0]])).tolist() == [0xBE800000 - 2**32]
    assert checks(torch.ones(1, 3)).tolist() == [0xBE800000 - 2**32]
    assert checks(torch.ones(1, 3)).dtype is torch.int32


def test_a_check_covers_65536_elements_or_one_row():
    assert [block_rows(row) for row in (1, 128, 4096, 65536, 100_000)] == [65536, 512, 16, 1, 1]
    base = normal(33, 4096)
    found = checks(base)
    assert found.shape == (3,)
    base[32, 7] += 1
    assert (checks(base) != found).tolist() == [False, False, True]


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 2))
def test_any_number_that_changes_shows(seed, row, column):
    base = normal(6, 3, seed=seed)
    found = checks(base)
    base[row, column] = base[row, column].nextafter(torch.tensor(torch.inf))
    assert not torch.equal(checks(base), found)


def test_how_the_base_is_stored_does_not_matter():
    base = normal(5, 7).bfloat16()
    assert torch.equal(checks(base), checks(base.float()))
    assert torch.equal(checks(base), checks(base.double()))
