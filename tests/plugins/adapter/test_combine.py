"""The methods of adapter.merge on numbers that can be checked by hand."""

from __future__ import annotations

import torch

from surgery_adapter._combine import iso, linear, ties, trimmed, tsvm
from tests.plugins.adapter.conftest import filled

ONE = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
TWO = torch.tensor([[3.0, 1.0, 4.0]], dtype=torch.float64)


def test_linear_is_the_weighted_mean_or_sum():
    assert linear([ONE, TWO], [1, 3], normalize=True).tolist() == [[2.5, 0.25, 3]]
    assert linear([ONE, TWO], [1, -1], normalize=False).tolist() == [[-2, -3, -4]]


def test_the_largest_entries_stay():
    assert trimmed(TWO, 2 / 3).tolist() == [[3, 0, 4]]
    assert trimmed(TWO, 1.0).tolist() == TWO.tolist()
    assert trimmed(TWO, 0.01).tolist() == [[0, 0, 4]]
    assert trimmed(torch.ones(1, 3), 0.34).tolist() == [[1, 1, 1]]  # equals of the last


def test_ties_takes_what_agrees_with_the_elected_sign():
    # sums 4, -1, 4: plus, minus, plus; a zero agrees with neither
    assert ties([ONE, TWO], [1, 1], normalize=True).tolist() == [[2, -2, 4]]
    assert ties([ONE, TWO], [1, 1], normalize=False).tolist() == [[4, -2, 4]]
    assert ties([ONE, TWO], [3, 1], normalize=True).tolist() == [[6 / 4, -6 / 3, 4]]


def test_tsvm_keeps_orthogonal_changes_and_does_not_double_shared_ones():
    e1, e2 = torch.diag(torch.tensor([2.0, 0.0])), torch.diag(torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(tsvm([e1, e2], [1, 1]), (e1 + e2).double())
    torch.testing.assert_close(tsvm([e1, e1], [1, 1]), e1.double() * 2 / 2)


def test_iso_makes_the_sums_singular_values_their_mean():
    total = torch.diag(torch.tensor([1.0, 3.0, 0.0]))
    torch.testing.assert_close(iso([total], [1.0]), torch.diag(torch.tensor([2.0, 2.0, 0.0])).double())
    assert not iso([torch.zeros(2, 2)], [1.0]).any()


def test_the_order_of_adapters_does_not_matter():
    cores = [filled(5, 4, seed=i).double() for i in range(3)]
    for method in (tsvm, iso):
        torch.testing.assert_close(method(cores, [1, 2, 3]), method(cores[::-1], [3, 2, 1]))
    forth, back = ties(cores, [1, 2, 3], normalize=True), ties(cores[::-1], [3, 2, 1], normalize=True)
    torch.testing.assert_close(forth, back)
