"""merge.wudi against numbers by hand, the loss that it minimises, and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from surgery.errors import OpError
from surgery.testing import Identity, OpCase, run_op
from surgery_merge.wudi import Wudi, wudi
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, low_rank_models, random_models

TINY = {**ALL, "ridge": 1e-9}


def loss(merged, deltas):
    """The paper's Σ ‖(M - τ)·τᵀ‖²/‖τ‖²."""
    return sum(((merged - delta) @ delta.T).square().sum() / delta.square().sum() for delta in deltas)


def test_tasks_on_inputs_of_their_own_add_up():
    """G of [1, 0] and of [0, 2] are diag(1, 0) and diag(0, 1): the system is the unit matrix."""
    OpCase(
        wudi,
        TINY,
        models=[[[1.0, 0.0]], [[0.0, 2.0]]],
        base=[[0.0, 0.0]],
        each=[{}, {}],
        expected=[[1.0, 2.0]],
        identity=[Identity({"lambda": 0}, gives=-1), Identity(each=[{"weight": 0}] * 2, gives=-1)],
        permutable=True,
        scale_equivariant=True,
    ).check()


def test_a_ridge_of_a_share_of_the_mean_shrinks_what_it_is_added_to():
    """(1 + 0.25)·M = [1, 2]: the trace is 2, its mean 1."""
    given = {"models": [[[1.0, 0.0]], [[0.0, 2.0]]], "base": [[0.0, 0.0]], "each": [{}, {}]}
    OpCase(wudi, {**ALL, "ridge": 0.25}, **given, expected=[[0.8, 1.6]]).check()


def test_what_two_tasks_learned_alike_is_added_once():
    models = [diag(2, 1), diag(2, 1)]
    OpCase(wudi, TINY, models=models, base=ZERO, each=[{}, {}], expected=diag(2, 1)).check()


def test_weights_scale_deltas_and_a_model_of_weight_0_is_no_task():
    models = [diag(2, 1), diag(5, 7)]
    each = [{"weight": 0.5}, {"weight": 0}]
    given = {**TINY, "lambda": 3}
    OpCase(wudi, given, models=models, base=ZERO, each=each, expected=diag(3, 1.5)).check()


def test_models_that_are_the_base_are_no_tasks_either():
    OpCase(wudi, ALL, models=[ZERO, ZERO], base=ZERO, each=[{}, {}], expected=ZERO).check()
    models = [diag(2, 1), ZERO]
    OpCase(wudi, TINY, models=models, base=ZERO, each=[{}, {}], expected=diag(2, 1)).check()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize("ridge", [1e-2, 1e-6])
def test_it_equals_the_solution_by_numpy(shape, ridge):
    models, base = random_models(shape, 3)
    deltas = [delta.numpy() for delta in deltas_of(models, base)]
    grams = [delta.T @ delta / np.sum(delta**2) for delta in deltas]
    system = sum(grams)
    system += ridge * np.trace(system) / len(system) * np.eye(len(system))
    right = sum(delta @ gram for delta, gram in zip(deltas, grams, strict=True))
    wanted = base.double() + torch.from_numpy(np.linalg.solve(system, right.T).T).reshape(shape)
    OpCase(wudi, {**ALL, "ridge": ridge}, models=models, base=base, each=[{}] * 3, expected=wanted).check()


def test_no_step_from_the_minimum_lowers_the_loss():
    models, base = random_models((15, 10), 3, dtype=torch.float64)
    deltas = deltas_of(models, base)
    merged = run_op(wudi, TINY, models, base, each=[{}] * 3) - base
    least = loss(merged, deltas)
    assert least < 0.9 * min(loss(sum(deltas), deltas), loss(sum(deltas) / 3, deltas))
    for other in [*deltas, sum(deltas)]:
        for step in (1e-2, -1e-2):
            assert loss(merged + step * (other - merged), deltas) > least


def test_low_rank_deltas_are_solved_in_their_own_space():
    models, base = low_rank_models((9, 12), 2, rank=2)
    merged = run_op(wudi, ALL, models, base, each=[{}] * 2) - base
    assert torch.linalg.matrix_rank(merged, rtol=1e-9) == 4
    exact = run_op(wudi, {**ALL, "ridge": 1e-10}, models, base, each=[{}] * 2) - base
    assert loss(exact, deltas_of(models, base)) < 1e-12 * loss(ZERO.new_zeros(9, 12), deltas_of(models, base))


def test_a_ridge_that_float64_cannot_tell_from_none_is_refused():
    models, base = low_rank_models((9, 12), 1, rank=1)
    with pytest.raises(OpError) as error:
        run_op(wudi, {**ALL, "ridge": 1e-40}, models, base, each=[{}])
    assert str(error.value) == "w: the system of 12 columns is singular with `ridge` 1e-40; raise it"
    with pytest.raises(ValidationError):
        Wudi(ridge=0)
