"""The largest of each row, by the two ways of finding them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery_prune._rows import largest_of_rows


def by_hand(rows, count):
    """Order by magnitude, then by index."""
    wanted = torch.zeros_like(rows, dtype=torch.bool)
    for row, out in zip(rows.tolist(), wanted, strict=True):
        for index in sorted(range(len(row)), key=lambda i: (-abs(row[i]), i))[:count]:
            out[index] = True
    return wanted


@given(length=st.integers(1, 40), seed=st.integers(0, 99), values=st.sampled_from([2, 5, 1000]))
@settings(max_examples=60, deadline=None)
def test_both_ways_equal_sorting_with_ties_to_the_lower_index(length, seed, values):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-values, values + 1, (7, length), generator=generator).float()
    for count in {0, 1, length // 2, length}:
        assert torch.equal(largest_of_rows(rows, count), by_hand(rows, count))


@pytest.mark.parametrize("length", [4, 40])
def test_no_rows_give_no_rows(length):
    assert largest_of_rows(torch.empty(0, length), 2).shape == (0, length)
