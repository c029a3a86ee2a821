"""merge.iso_c against numbers by hand and numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import Identity, OpCase, run_op
from surgery_merge.iso_c import iso_c
from tests.plugins.merge.matrices import ALL, ZERO, by_svd, deltas_of, diag, low_rank_models, random_models


def test_singular_values_3_and_1_become_2():
    OpCase(
        iso_c,
        ALL,
        models=[diag(1, 1), diag(2, 0)],
        base=ZERO,
        each=[{}, {}],
        expected=diag(2, 2),
        identity=[Identity({"lambda": 0}, gives=-1)],
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize(("mean", "wanted"), [("nonzero", [3, 0]), ("all", [1.5, 1.5])])
def test_a_zero_singular_value_stays_zero_unless_all_are_wanted(mean, wanted):
    OpCase(
        iso_c, {**ALL, "mean": mean}, models=[diag(3, 0)], base=ZERO, each=[{}], expected=diag(*wanted)
    ).check()


def test_signs_and_directions_are_those_of_the_sum():
    models = [diag(1, -2), diag(2, -2)]
    OpCase(iso_c, ALL, models=models, base=ZERO, each=[{}, {}], expected=diag(3.5, -3.5)).check()


def test_weights_and_lambda_scale_what_is_added():
    each = [{"weight": 2}, {"weight": -1}]
    given = {**ALL, "lambda": 0.5}
    models = [diag(2, 1), diag(1, 0)]  # 2·(2, 1) - (1, 0) = (3, 2)
    OpCase(iso_c, given, models=models, base=ZERO, each=each, expected=diag(1.25, 1.25)).check()


def test_deltas_that_cancel_leave_the_base():
    base = torch.ones(2, 2)
    models = [base + diag(1, 2), base - diag(1, 2)]
    OpCase(iso_c, ALL, models=models, base=base, each=[{}, {}], expected=base).check()


@pytest.mark.parametrize("mean", ["nonzero", "all"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (8, 3, 2, 2)])
def test_it_equals_numpy(shape, mean):
    models, base = random_models(shape, 3)
    flat = by_svd(sum(deltas_of(models, base)), lambda S: np.full_like(S, S.mean()))
    wanted = base.double() + 1.5 * flat.reshape(shape)
    given = {**ALL, "mean": mean, "lambda": 1.5}
    OpCase(iso_c, given, models=models, base=base, each=[{}] * 3, expected=wanted).check()


def test_low_rank_deltas_keep_their_space_and_all_of_it_alike():
    models, base = low_rank_models((9, 12), 3, rank=2)
    total = sum(model - base for model in models)
    delta = run_op(iso_c, ALL, models, base, each=[{}] * 3) - base
    values = torch.linalg.svdvals(delta)
    assert torch.allclose(values[:6], torch.linalg.svdvals(total)[:6].mean().expand(6))
    assert values[6:].max() < 1e-12
    U = torch.linalg.svd(total)[0][:, :6]
    assert torch.allclose(U @ (U.T @ delta), delta, atol=1e-12)


def test_the_naive_mean_puts_most_of_low_rank_deltas_elsewhere():
    """Rank 1 of 9: eight of nine equal directions are none that a model changed."""
    models, base = low_rank_models((9, 12), 1, rank=1)
    delta = run_op(iso_c, {**ALL, "mean": "all"}, models, base, each=[{}]) - base
    U = torch.linalg.svd(models[0] - base)[0][:, :1]
    outside = (delta - U @ (U.T @ delta)).square().sum() / delta.square().sum()
    assert outside == pytest.approx(8 / 9)
