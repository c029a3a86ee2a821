"""The parts of a weight that training begins with: numbers by hand, then laws of each method."""

from __future__ import annotations

import pytest
import torch

from surgery_adapter import _start
from tests.plugins.adapter.conftest import filled

METHODS = {
    "svd": lambda W, rank: _start.svd(W, rank, "w"),
    "qr": _start.qr,
    "nystrom": lambda W, rank: _start.nystrom(W, rank, "leading", 1e-2),
    "ldu": lambda W, rank: _start.ldu(W, rank, 1e-6),
}


def product(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    A, B = pair
    return B.double() @ A.double()


def test_ldu_takes_the_first_step_of_elimination():
    # rows swapped: L = [1, ½], D·U = [4, 3]
    assert product(_start.ldu(torch.tensor([[2.0, 1.0], [4.0, 3.0]]), 1, 1e-6)).tolist() == [[2, 1.5], [4, 3]]


def test_nystrom_of_a_matrix_of_rank_one_is_the_matrix():
    W = torch.tensor([[2.0, 4.0], [4.0, 8.0]])
    torch.testing.assert_close(product(_start.nystrom(W, 1, "leading", 0.0)), W.double())
    A, B = _start.nystrom(W, 1, "leading", 0.0)
    torch.testing.assert_close(A.norm(), B.norm())


def test_qr_projects_on_the_first_column():
    # q = [1, 2]/√5, qᵀW = [10, 7]/√5
    W = torch.tensor([[2.0, 1.0], [4.0, 3.0]])
    torch.testing.assert_close(
        product(_start.qr(W, 1)), torch.tensor([[2.0, 1.4], [4.0, 2.8]], dtype=torch.float64)
    )


def test_svd_takes_the_largest_direction():
    W = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    wanted = torch.diag(torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(product(_start.svd(W, 1, "w")), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(7, 12), (12, 7)])
def test_a_matrix_of_the_rank_is_taken_whole(method: str, shape: tuple[int, int]):
    W = filled(shape[0], 3) @ filled(3, shape[1], seed=1)
    found = product(METHODS[method](W, 3))
    assert float((found - W).norm() / W.norm()) < 1e-5  # W itself is of that rank up to float32


@pytest.mark.parametrize("method", METHODS)
def test_shapes_are_those_of_the_rank_whatever_the_matrix_holds(method: str):
    W = filled(6, 1) @ filled(1, 9, seed=1)
    A, B = METHODS[method](W, 4)
    assert (A.shape, B.shape) == ((4, 9), (6, 4))
    assert torch.isfinite(A).all()
    assert torch.isfinite(B).all()


def test_ldu_agrees_with_lapacks_elimination():
    W = filled(8, 6).double()
    P, L, U = torch.linalg.lu(W)
    torch.testing.assert_close(product(_start.ldu(W, 4, 0.0)), P @ L[:, :4] @ U[:4])


def test_pivots_too_small_end_the_elimination():
    W = torch.diag(torch.tensor([4.0, 1e-9, 2.0]))
    assert product(_start.ldu(W, 3, 1e-6)).diagonal().tolist() == [4.0, 0.0, 0.0]


def test_nystrom_takes_the_longest_rows_and_columns():
    W = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    assert product(_start.nystrom(W, 2, "norm", 0.0)).diagonal().tolist() == pytest.approx([0, 3, 2])


def test_nystrom_divides_by_no_small_singular_value():
    W = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1e-3, 1.0], [1.0, 1.0, 1.0]])
    A, B = _start.nystrom(W, 2, "leading", 1e-2)
    assert float(product((A, B)).abs().max()) == pytest.approx(1.0)
    assert A[1].tolist() == [0, 0, 0]
    assert float(product(_start.nystrom(W, 2, "leading", 0.0)).abs().max()) == pytest.approx(1001.0)


def test_directions_that_are_not_there_are_drawn_and_change_nothing():
    A, B = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0] * 4]), torch.tensor([[3.0, 0.0]])
    drawn, same = _start.fresh(A, B, lambda count: torch.arange(count) / 8)
    assert drawn.tolist() == [[1, 2, 0, 0], [0, 0.125, 0.25, 0.375]]  # (2u - 1)/√4
    assert torch.equal(same @ drawn.to(B.dtype), B @ A)


def test_normal_numbers_have_their_moments():
    from surgery.math.random import stream_key, uniform

    def draws(count: int, stream: int) -> torch.Tensor:
        return uniform(stream_key(0, "t", "w", stream), 0, torch.empty(count))

    found = _start.normal_columns(torch.zeros(40, 100), draws)
    assert abs(float(found.mean())) < 0.06  # four times 1/√4000
    assert abs(float(found.std()) - 1) < 0.05
