"""Bools as factors."""

from __future__ import annotations

import pytest
import torch

from surgery.math.masks import as_numbers, drop


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_true_is_1_and_false_is_0(dtype: torch.dtype) -> None:
    mask = torch.tensor([[True, False], [False, True]])
    out = torch.full((2, 2), torch.nan, dtype=dtype)
    assert as_numbers(mask, out) is out
    assert out.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_false_is_dropped_in_place(dtype: torch.dtype) -> None:
    x = torch.tensor([1.5, -2, 3], dtype=dtype)
    assert drop(x, torch.tensor([True, False, True])) is x
    assert x.tolist() == [1.5, 0, 3]


def test_a_dropped_number_that_is_not_finite_shows() -> None:
    x = torch.tensor([torch.nan, torch.inf, torch.inf])
    assert not torch.isfinite(drop(x, torch.tensor([False, False, True]))).any()


def test_it_multiplies_as_torch_does_to_the_last_bit() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    mask = x > 0.3
    assert torch.equal(drop(x.clone(), mask).view(torch.int32), (x * mask).view(torch.int32))
