"""Draws around the mean of rows: their mean and covariance, and that they depend on what they should alone."""

from __future__ import annotations

import pytest
import torch

from surgery.testing import run_op
from surgery_stitch._noise import noise_of_rows, normals


def drawn(rows, count, **settings):
    params = {"count": count, "first": 0, "scale": 1.0, "seed": 0, **settings}
    runner = {key: params.pop(key) for key in ("block", "chunk") if key in params}
    return run_op(noise_of_rows, params, models=[rows], **runner)


@pytest.fixture
def rows():
    torch.manual_seed(3)
    return torch.randn(400, 3) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.1]]) + 5


def test_draws_have_the_mean_and_the_covariance_of_the_rows(rows):
    made = drawn(rows, 400)[:400].double()
    assert torch.allclose(made.mean(0), rows.double().mean(0), atol=0.3)
    assert torch.allclose(made.T.cov(), rows.double().T.cov(), rtol=0.2, atol=0.2)


def test_a_scale_is_a_share_of_the_covariance(rows):
    whole, part = drawn(rows, 5)[:5], drawn(rows, 5, scale=0.25)[:5]
    mean = rows.double().mean(0).float()
    assert torch.allclose(part - mean, (whole - mean) / 2, atol=1e-5)


def test_one_row_is_its_own_mean():
    assert drawn(torch.tensor([[2.0, 3.0]]), 1).tolist() == [[2.0, 3.0]]


def test_a_draw_is_the_formula_written_out(rows):
    """m + sqrt(1/(n-1)) Σ g_i (x_i - m), from the same normal numbers."""
    params = noise_of_rows.params(count=2, first=0, scale=1.0, seed=0)
    from surgery.testing.runner import signature_of

    x = rows.double()
    g = normals(signature_of(noise_of_rows, [rows], None, []), params, 0, len(rows))
    expected = x.mean(0) + g @ (x - x.mean(0)) / (len(x) - 1) ** 0.5
    assert torch.allclose(drawn(rows, 2)[:2].double(), expected, rtol=1e-6, atol=1e-9)


def test_blocks_and_chunks_change_nothing_but_rounding(rows):
    small = drawn(rows, 4, block=100, chunk=7)
    assert torch.allclose(small, drawn(rows, 4), rtol=1e-6, atol=1e-6)


def test_a_later_draw_is_the_same_whichever_is_the_first(rows):
    assert torch.allclose(drawn(rows, 2, first=3)[:2], drawn(rows, 5)[3:5], rtol=1e-6, atol=1e-6)
    assert not torch.equal(drawn(rows, 1)[0], drawn(rows, 1, seed=1)[0])
