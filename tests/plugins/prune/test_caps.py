"""A threshold found digit by digit."""

from __future__ import annotations

import pytest
import torch

from surgery.math.select import kth_largest
from surgery_prune._caps import SHIFTS, Digits, digit_counts, next_digit


def search(blocks, rank):
    known = Digits(0, rank)
    while not known.settled:
        known = next_digit(known, sum(digit_counts(block, known) for block in blocks))
    return known


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_three_passes_find_the_kth_largest(dtype):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    x[:3] = torch.tensor([0.0, -0.0, 3e38])
    for rank in (1, 2, 500, 999, 1000):
        bits = search(x.split(300), rank).low
        assert float(torch.tensor(bits, dtype=torch.int32).view(torch.float32)) == kth_largest(x, rank)


def test_the_digits_are_all_bits_but_the_sign():
    assert SHIFTS == (20, 10, 0)
    assert search([torch.tensor([-1.5])], 1).low == 0x3FC00000
