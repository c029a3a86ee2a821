from __future__ import annotations

import torch

from surgery_adapter._core import balanced, core_of, cut
from tests.plugins.adapter.conftest import filled


def test_cores_hold_the_changes_without_loss():
    As = [filled(r, 50, seed=r) for r in (3, 4, 5)]
    Bs = [filled(40, r, seed=-r) for r in (3, 4, 5)]
    found = core_of(As, Bs)
    assert found.U.shape == (40, 12)
    for A, B, core in zip(As, Bs, found.cores, strict=True):
        whole = B.double() @ A.double()
        assert float((found.U @ core @ found.V.T - whole).norm() / whole.norm()) < 1e-14


def test_more_ranks_than_rows_do_no_harm():
    A, B = filled(9, 4), filled(3, 9, seed=1)
    found = core_of([A, A], [B, B])
    assert found.cores[0].shape == (3, 4)
    torch.testing.assert_close(found.U @ found.cores[1] @ found.V.T, B.double() @ A.double())


def test_a_core_is_cut_to_its_largest_singular_values_and_filled_with_zeros():
    eye = torch.eye(2, dtype=torch.float64)
    core = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    A, B = balanced(core, eye, eye, 1)
    assert (A.tolist(), B.tolist()) == ([[0, 2]], [[0], [2]])
    A, B = balanced(core, eye, eye, 3)
    assert (A.shape, B.shape, A[2].tolist(), B[:, 2].tolist()) == ((3, 2), (2, 3), [0, 0], [0, 0])
    torch.testing.assert_close(B @ A, core)


def test_a_whole_change_is_cut_alike():
    whole = filled(6, 5).double()
    U, S, Vh = torch.linalg.svd(whole)
    A, B = cut(whole, 2)
    torch.testing.assert_close((B @ A).double(), (U[:, :2] * S[:2]) @ Vh[:2], rtol=0, atol=1e-6)
    assert cut(whole, 7)[0].shape == (7, 5)
