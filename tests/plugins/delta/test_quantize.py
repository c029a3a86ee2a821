"""Codes of few bits: numbers by hand, laws, bounds of the error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.packing import unpack
from surgery_delta.quantize import quantize
from tests.plugins.delta.conftest import back, normal, stored


def test_four_bits_by_hand():
    """max|τ| 15 → s = 15 / 7.5 = 2; 15/2 = 7.5 → 8 → 7, -7.5 → -8, 1.5 → 2, .5 → 0: ties to even."""
    made = stored(quantize, [[15.0, -15, 3, 1, 0, 2, -2, 5]], group_size=8)
    assert made["scale"].tolist() == [[2.0]]
    assert (unpack(made["codes"], 4, 8) - 8).tolist() == [[7, -8, 2, 0, 0, 1, -1, 2]]
    assert back(quantize, [[15.0, -15, 3, 1, 0, 2, -2, 5]], group_size=8).tolist() == [
        [14, -16, 4, 0, 0, 2, -2, 4]
    ]


def test_two_bits_by_hand():
    """max|τ| 3 → s = 3 / 1.5 = 2; codes -2 to 1."""
    assert back(quantize, [[3.0, -3, 1, 0]], bits=2).tolist() == [[2, -4, 0, 0]]


def test_the_end_of_a_row_is_a_smaller_group():
    made = stored(quantize, [[7.5] * 8 + [15.0] * 3], group_size=8)
    assert made["scale"].tolist() == [[1.0, 2.0]]
    assert back(quantize, [[7.5] * 8 + [15.0] * 3], group_size=8).tolist() == [[7.0] * 8 + [14.0] * 3]


def test_a_row_may_share_one_scale():
    assert stored(quantize, normal(3, 40), group_size=None)["scale"].shape == (3, 1)


def test_what_did_not_change_stays():
    base = normal(4, 20)
    assert torch.equal(back(quantize, base, base), base)
    model = base.clone()
    model[0, 0] += 1
    assert torch.equal(back(quantize, model, base)[1:], base[1:])


def test_scales_are_rounded_before_codes_are_computed():
    """s = 1/7.5 is 0.1338 in bfloat16, 0.1333 before: 0.0667 is above half the latter, below half the former."""
    made = stored(quantize, [[1.0, 0.0667]])
    assert (unpack(made["codes"], 4, 2) - 8).tolist() == [[7, 0]]


@given(
    st.integers(2, 8),
    st.sampled_from([8, 12, None]),
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_cut_into_rows_is_whole_and_errors_are_bounded(bits, size, rows, row, cut, seed):
    model, params = normal(rows, row, seed=seed), {"bits": bits, "group_size": size}
    whole, pieces = stored(quantize, model, **params), stored(quantize, model, rows=cut, **params)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    step = whole["scale"].float().repeat_interleave(size or row, 1)[:, :row]
    # half a step within the codes; the largest change may lie a whole step and the scale's rounding beyond them
    error = (back(quantize, model, **params) - model).abs()
    assert bool((error <= step * (0.5 + 0.502 * (model > 0)) + 1e-6).all())


@pytest.mark.parametrize(("fewer", "more"), [(2, 3), (3, 4), (4, 6), (6, 8)])
def test_more_bits_are_better(fewer, more):
    model = normal(30, 50)
    errors = [float((back(quantize, model, bits=bits) - model).norm()) for bits in (fewer, more)]
    assert errors[1] < errors[0]
