"""Ranks from a histogram: shared by equals, exact for what is told apart, close for everything."""

from __future__ import annotations

import torch

from surgery_merge._tensor_ranks import looked_up, ranks, tally


def ranked(*blocks):
    total = tally(blocks[0])
    for block in blocks[1:]:
        total.add(tally(block))
    table = torch.from_numpy(ranks(total).astype("float32"))
    return [looked_up(block, table).tolist() for block in blocks]


def test_equals_share_the_mean_of_their_ranks():
    assert ranked(torch.tensor([3.0, 1.0, -1.0])) == [[2.0, 0.5, 0.5]]
    assert ranked(torch.tensor([0.0, -0.0, 5.0, 7.0])) == [[0.5, 0.5, 2.0, 3.0]]


def test_blocks_are_ranked_together():
    assert ranked(torch.tensor([[4.0], [1.0]]), torch.tensor([-2.0, 8.0])) == [[[2.0], [0.0]], [1.0, 3.0]]


def test_ranks_of_normal_numbers_are_close_and_sum_to_what_they_should():
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    found = torch.tensor(ranked(x)[0]).double()
    exact = x.abs().argsort().argsort().double()
    assert (found - exact).abs().max() < 0.0012 * len(x)
    assert (found - exact).abs().mean() < 0.0003 * len(x)
    assert found.sum() == len(x) * (len(x) - 1) / 2


def test_how_blocks_are_cut_does_not_show():
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    assert [rank for block in ranked(*x.split(777)) for rank in block] == ranked(x)[0]


def test_double_precision_is_ranked_as_float32():
    assert ranked(torch.tensor([3.0, 1.0], dtype=torch.float64)) == [[1.0, 0.0]]
