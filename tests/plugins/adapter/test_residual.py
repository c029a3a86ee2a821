from __future__ import annotations

from typing import Any

import pytest
import torch

from surgery.tensors import Role
from surgery.testing import run_emitting_op, run_op
from surgery_adapter.init import init
from surgery_adapter.residual import residual
from tests.plugins.adapter.conftest import filled

Q = Role("attention.q", 0)
W = [[2.0, 1.0], [4.0, 3.0]]


def left(weight: torch.Tensor, role: Role = Q, **how: Any) -> torch.Tensor:
    return run_op(residual, how, [weight], name="m.w.weight", role=role)


def test_elimination_leaves_half_of_one_entry():
    assert left(torch.tensor(W), method="ldu", rank=1).tolist() == [[0, -0.5], [0, 0]]


@pytest.mark.parametrize("method", ["svd", "qr", "nystrom", "ldu"])
def test_full_rank_leaves_nothing(method: str):
    found = left(torch.tensor(W), method=method, rank=9, tol=0.0)
    assert float(found.abs().max()) < 1e-6


@pytest.mark.parametrize("role", [Q, Role("embed")])
@pytest.mark.parametrize("method", ["svd", "qr", "nystrom", "ldu"])
def test_it_subtracts_the_factors_as_they_are_stored(method: str, role: Role):
    weight = filled(9, 7).double()
    how = {"method": method, "rank": 3, "dtype": "float16", "alpha": 6, "targets": "all"}
    made = run_emitting_op(init, {**how, "base_model": "x"}, [weight], name="m.w.weight", role=role)
    A, B = (made[key].double() for key in sorted(made))
    rest = left(weight, role, **how)
    part = 2 * (B @ A)
    torch.testing.assert_close(rest + (part.T if role.kind == "embed" else part), weight, rtol=0, atol=1e-12)


def test_what_has_no_factors_is_copied():
    norm = torch.tensor([1.0, 2.0])
    assert torch.equal(left(norm, Role("norm.final"), method="svd"), norm)


def test_the_result_is_float32_whatever_the_base_is():
    assert left(torch.tensor(W).bfloat16(), method="svd", rank=1).dtype == torch.float32


def test_twice_the_same_bytes():
    first, again = (left(filled(30, 20), method="nystrom", rank=5) for _ in "12")
    assert torch.equal(first, again)
