from __future__ import annotations

import pytest
import torch

from surgery.math.ranks import exact_bytes
from surgery_adapter._factors import factor_bytes, factors


def test_a_diagonal_change_keeps_its_largest_entries():
    A, B = factors(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2, "w")
    rest = torch.diag(torch.tensor([3.0, 2.0, 1.0])) - B @ A
    assert (A.shape, B.shape) == ((2, 3), (3, 2))
    torch.testing.assert_close(rest, torch.diag(torch.tensor([0.0, 0.0, 1.0])), rtol=0, atol=1e-6)
    # both sides carry the root of the singular values
    assert A.norm(dim=1).tolist() == pytest.approx([3**0.5, 2**0.5])
    assert B.norm(dim=0).tolist() == pytest.approx([3**0.5, 2**0.5])


def test_a_change_of_that_rank_is_kept_to_rounding():
    delta = torch.randn(40, 3, dtype=torch.float64) @ torch.randn(3, 25, dtype=torch.float64)
    A, B = factors(delta, 3, "w")
    assert float((B.double() @ A.double() - delta).norm() / delta.norm()) < 2**-23


def test_the_error_is_the_root_of_the_dropped_squares():
    delta = torch.randn(30, 20, dtype=torch.float64)
    dropped = torch.linalg.svdvals(delta)[6:].square().sum().sqrt()
    A, B = factors(delta, 6, "w")
    assert float((delta - B.double() @ A.double()).norm()) == pytest.approx(float(dropped), rel=1e-6)


def test_no_change_gives_zeros():
    A, B = factors(torch.zeros(4, 3), 2, "w")
    assert not A.any()
    assert not B.any()


def test_large_matrices_take_the_randomized_method_and_find_a_low_rank_too(monkeypatch):
    monkeypatch.setattr("surgery.math.ranks.EXACT_UP_TO", 16)
    delta = torch.randn(40, 3) @ torch.randn(3, 50)
    A, B = factors(delta, 3, "w")
    assert float((B @ A - delta).norm() / delta.norm()) < 1e-5
    again = factors(delta, 3, "w")
    assert torch.equal(A, again[0])
    assert torch.equal(B, again[1])


def test_a_large_matrix_takes_far_less_memory_than_its_whole_decomposition():
    assert factor_bytes((4000, 5000), 16) < exact_bytes((4000, 5000)) / 3
