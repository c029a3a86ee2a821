"""Rows that no model has: each op on numbers that can be checked by hand, and held to the laws."""

from __future__ import annotations

import pytest
import torch

from surgery.testing import OpCase, run_op
from surgery_stitch._rows import as_rows, mean_of_models, mean_of_rows, zero

M = torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])


def test_zeros_have_the_shape_of_the_input():
    OpCase(zero, {}, models=[M], expected=torch.zeros(2, 3)).check()


def test_the_mean_of_models_is_taken_element_by_element():
    OpCase(mean_of_models, {}, models=[M, M + 3, M], expected=M + 1).check()


def test_the_mean_of_models_is_rounded_once():
    tiny = torch.tensor([[1e-8]])
    made = run_op(mean_of_models, models=[torch.ones(1, 1), tiny, -torch.ones(1, 1), tiny])
    assert made.item() == pytest.approx(5e-9, rel=1e-7)  # in float32 the first two would add up to one


def test_every_row_is_the_mean_of_all_rows():
    OpCase(mean_of_rows, {}, models=[M], expected=torch.tensor([[3.0, 4.0, 5.0]]).expand(2, 3)).check()


def test_a_vector_is_one_column():
    assert run_op(mean_of_rows, models=[torch.tensor([1.0, 2.0, 6.0])]).tolist() == [3, 3, 3]


@pytest.mark.parametrize("block", [1, 4, 7, 1000])
def test_rows_may_be_cut_by_blocks(block):
    torch.manual_seed(0)
    matrix = torch.randn(50, 7)
    made = run_op(mean_of_rows, models=[matrix], block=block, chunk=11)
    expected = matrix.double().mean(0).expand(50, 7)
    assert torch.allclose(made.double(), expected, rtol=1e-6, atol=1e-9)


def test_a_range_is_put_into_the_rows_that_it_touches():
    assert as_rows(torch.tensor([3.0, 4.0, 5.0]), 2, 3).tolist() == [[0, 0, 3], [4, 5, 0]]
