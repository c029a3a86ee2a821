"""merge.cart against numbers by hand and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import OpCase, run_op
from surgery_merge.cart import cart
from tests.plugins.merge.matrices import ALL, by_svd, diag, random_models

THREE = [diag(6, 0), diag(0, 9), diag(0, 0)]  # mean (2, 3); about it (4, -3), (-2, 6), (-2, -3)


@pytest.mark.parametrize(("factor", "wanted"), [(1, (6, 6)), (0.5, (4, 4.5)), (0, (2, 3))])
def test_the_greatest_difference_of_each_is_added_to_the_mean(factor, wanted):
    """They are (4, 0), (0, 6) and (0, -3), in all (4, 3)."""
    OpCase(
        cart,
        {**ALL, "lambda": factor},
        models=THREE,
        expected=diag(*wanted),
        permutable=True,
        scale_equivariant=True,
    ).check()


def test_with_all_directions_and_with_two_models_the_mean_is_left():
    models, _ = random_models((8, 6), 3)
    OpCase(cart, {**ALL, "fraction": 1}, models=models, expected=sum(m.double() for m in models) / 3).check()
    OpCase(cart, ALL, models=models[:2], expected=(models[0].double() + models[1]) / 2).check()


def test_equal_models_are_what_they_were():
    (model,), _ = random_models((5, 7), 1)
    assert torch.equal(run_op(cart, ALL, [model, model, model]), model)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize("fraction", [0.08, 0.5])
def test_it_equals_numpy(shape, fraction):
    models, _ = random_models(shape, 4)
    flat = [model.double().reshape(len(model), -1) for model in models]
    mean = sum(flat) / 4
    k = max(1, int(fraction * min(mean.shape)))

    def cut(S):
        return np.where(np.arange(len(S)) < k, S, 0)

    wanted = (mean + 0.7 * sum(by_svd(one - mean, cut) for one in flat)).reshape(shape)
    OpCase(cart, {**ALL, "fraction": fraction, "lambda": 0.7}, models=models, expected=wanted).check()


def test_everything_else_is_the_mean():
    models = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0]), torch.tensor([4.0, 4.0])]
    assert run_op(cart, {}, models).tolist() == [3.0, 2.0]


def test_a_scalar_is_averaged():
    assert run_op(cart, {}, [torch.tensor(1.0), torch.tensor(3.0)]).item() == 2.0


def test_nothing_is_made_of_nothing():
    assert run_op(cart, ALL, [torch.zeros(0, 4)] * 2).shape == (0, 4)
    assert run_op(cart, {}, [torch.zeros(0)] * 3).shape == (0,)
