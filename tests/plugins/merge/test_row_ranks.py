"""Ranks within rows: by hand, by counting on random rows, and on rows of equals."""

from __future__ import annotations

import pytest
import torch

from surgery_merge._row_ranks import mean_ranks


def test_equal_magnitudes_share_the_mean_of_their_ranks():
    rows = torch.tensor([[3.0, -1.0, 1.0], [0.0, -0.0, 0.0], [-2.0, 1.0, 3.0]])
    assert mean_ranks(rows).tolist() == [[2, 0.5, 0.5], [1, 1, 1], [1, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (37, 300)])
def test_ranks_are_those_found_by_counting(shape, dtype):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    values = rows.abs()
    smaller = (values[:, None, :] < values[:, :, None]).sum(2)
    equal = (values[:, None, :] == values[:, :, None]).sum(2)
    wanted = smaller + (equal.double() - 1) / 2
    assert torch.equal(mean_ranks(rows).double(), wanted)


def test_a_run_of_equals_ends_with_its_row():
    rows = torch.tensor([[1.0, 2.0, 2.0], [2.0, 2.0, 3.0]])
    assert mean_ranks(rows).tolist() == [[0, 1.5, 1.5], [0.5, 0.5, 2]]


def test_float64_is_compared_in_float32():
    rows = torch.tensor([[1.0 + 1e-12, 1.0, 0.5]], dtype=torch.float64)
    assert mean_ranks(rows).tolist() == [[1.5, 1.5, 0]]
