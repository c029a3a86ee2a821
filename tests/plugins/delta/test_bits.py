"""Signs and scales: numbers by hand, laws, and the round trip in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.bits import unpack_bits
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery_delta.bits import Bits, BitsOp, parts
from tests.plugins.delta.conftest import back, normal, stored

STACK = Role("experts.up", layer=0)


def test_four_changes_by_hand():
    """Mean of 1, 3, 2, 2 is 2; 1 - 2, -3 + 2, 0, 0: an error of 2. Signs +-+-: bits 0 and 2."""
    made = stored(BitsOp, [[1.0, -3, 2, -2]])
    assert made["scale"].tolist() == [2.0]
    assert made["signs"].tolist() == [[[0b0101]]]
    assert made["signs"].dtype is torch.uint8
    error = back(BitsOp, [[1.0, -3, 2, -2]]) - torch.tensor([[1.0, -3, 2, -2]])
    assert float(error.square().sum()) == 2


def test_changes_of_one_size_are_exact():
    base = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    model = base + torch.tensor([[0.5, -0.5, 0.5], [-0.5, -0.5, 0.5]])
    assert torch.equal(back(BitsOp, model, base), model)


def test_what_did_not_change_goes_up_like_the_paper_or_stays():
    """The mean is 4 of 4 weights, or 8 of the 2 that changed."""
    model = [[8.0, 0.0, -8.0, 0.0]]
    assert back(BitsOp, model).tolist() == [[4, 4, -4, 4]]
    made = stored(BitsOp, model, zero="keep")
    assert (made["scale"].tolist(), made["changed"].tolist()) == ([8.0], [[0b0101]])
    assert back(BitsOp, model, zero="keep").tolist() == model


def test_a_second_mask_codes_what_the_first_left():
    """c1 = 2 leaves -1, -1, 0, 0: mean .5, signs --++, where 0 counts as +."""
    made = stored(BitsOp, [[1.0, -3, 2, -2]], masks=2)
    assert made["scale"].tolist() == [2.0, 0.5]
    assert made["signs"].tolist() == [[[0b0101], [0b1100]]]
    assert back(BitsOp, [[1.0, -3, 2, -2]], masks=2).tolist() == [[1.5, -2.5, 2.5, -1.5]]


def test_rows_may_have_scales_of_their_own():
    model = [[1.0, -1], [5, 5]]
    assert stored(BitsOp, model, scope="row")["scale"].tolist() == [[1.0], [5.0]]
    assert back(BitsOp, model, scope="row").tolist() == model
    assert stored(BitsOp, model)["scale"].tolist() == [3.0]


def test_experts_in_one_tensor_have_a_scale_each():
    model = [[[1.0, -1]], [[5, 5]]]
    assert stored(BitsOp, model, role=STACK)["scale"].tolist() == [[1.0], [5.0]]
    assert back(BitsOp, model, role=STACK).tolist() == model


def test_a_fine_tune_that_equals_its_base_has_scale_zero():
    for settings_ in ({}, {"zero": "keep"}, {"scope": "row", "zero": "keep", "masks": 2}):
        assert back(BitsOp, torch.ones(2, 3), torch.ones(2, 3), **settings_).tolist() == [[1] * 3] * 2


CHOICES = st.fixed_dictionaries(
    {"scope": st.sampled_from(["tensor", "row"]), "masks": st.integers(1, 3)},
    optional={"zero": st.just("keep")},
)


@given(CHOICES, st.integers(1, 40), st.integers(1, 20), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_cut_into_rows_is_whole(params, rows, row, cut, seed):
    model, base = normal(rows, row, seed=seed), normal(rows, row, seed=seed + 1)
    whole, pieces = stored(BitsOp, model, base, **params), stored(BitsOp, model, base, rows=cut, **params)
    assert whole.keys() == pieces.keys()
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


@given(CHOICES, st.integers(1, 30), st.integers(1, 20), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_round_trip_is_the_formula_in_float64(params, rows, row, seed):
    base = normal(rows, row, seed=seed).bfloat16().float()
    model = torch.where(normal(rows, row, seed=seed + 2) > 1, base, base + normal(rows, row, seed=seed + 1))
    left, total = (model - base).double(), torch.zeros(rows, row, dtype=torch.float64)
    changed = left != 0 if "zero" in params else torch.ones_like(left, dtype=torch.bool)
    for _ in range(params["masks"]):
        over = (1,) if params["scope"] == "row" else (0, 1)
        counts = changed.sum(over, keepdim=True).clamp(min=1)
        step = (left.abs() * changed).sum(over, keepdim=True) / counts
        step = torch.where(left < 0, -step, step)
        total, left = total + step, left - step
    expected = base + total * changed
    torch.testing.assert_close(back(BitsOp, model, base, **params).double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_more_masks_are_never_worse(scope):
    model = normal(30, 50)
    errors = [float((back(BitsOp, model, scope=scope, masks=masks) - model).norm()) for masks in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]


def test_every_signs_share_of_bytes_is_one_bit():
    spec = TensorSpec("w", (4096, 4096), "BF16")
    sizes = {
        part.spec.name: part.spec.nbytes
        for part in parts(Signature("w", (spec,), spec, (), Role("mlp.up", 0), spec.numel), Bits())
    }
    assert sizes == {"w.signs": spec.numel // 8, "w.scale": 4, "w.base": 4 * 4096 // 16}


def test_signs_lie_row_by_row_and_mask_by_mask():
    model = normal(5, 11)
    made = stored(BitsOp, model, masks=2)
    assert made["signs"].shape == (5, 2, 2)
    assert torch.equal(unpack_bits(made["signs"][:, 0], 11), model >= 0)
