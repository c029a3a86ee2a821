"""merge.karcher: known means, two models as slerp has them, and the same steps on whole tensors in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.testing import Identity, OpCase, run_op
from surgery_merge.karcher import KarcherOp, karcher_mean
from surgery_merge.slerp import SlerpOp


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steps_on_tensors(models: list[torch.Tensor], weights: list[float], steps: int) -> torch.Tensor:
    """Return the mean by the same steps, taken on whole tensors."""
    wide = [model.double() for model in models]
    shares = [weight / sum(weights) for weight in weights]
    units = [x / x.norm() for x in wide]
    u = sum(w * x for w, x in zip(shares, units, strict=True))
    u = u / u.norm()
    for _ in range(steps):
        step = torch.zeros_like(u)
        for w, x in zip(shares, units, strict=True):
            angle = torch.arccos((u * x).sum().clamp(-1, 1))
            if angle > 1e-9:
                step += w * angle / angle.sin() * (x - angle.cos() * u)
        size = step.norm()
        if size > 0:
            u = size.cos() * u + size.sin() * step / size
    return u * sum(w * x.norm() for w, x in zip(shares, wide, strict=True))


@pytest.mark.parametrize(
    ("models", "weights", "wanted"),
    [
        ([[2.0, 0.0], [0.0, 4.0]], [1, 1], [2.12132034, 2.12132034]),  # length 3, at 45°
        ([[1.0, 0.0], [0.0, 2.0]], [1, 1], [1.06066017, 1.06066017]),
        ([[1.0, 0.0], [2.0, 0.0]], [1, 1], [1.5, 0.0]),
        ([[1.0, 0.0], [0.0, 1.0]], [1, 3], [math.cos(math.pi * 3 / 8), math.sin(math.pi * 3 / 8)]),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [1, 1, 1], [0.57735027] * 3),
        ([[3.0, 0.0], [0.0, 0.0]], [1, 2], [1.0, 0.0]),  # a zero tensor has a length, no direction
        ([[0.0, 0.0], [0.0, 0.0]], [1, 1], [0.0, 0.0]),
        ([[1.0, 0.0], [-1.0, 0.0]], [1, 1], [1.0, 0.0]),  # opposite: the first
        ([[1.0, 0.0], [-1.0, 0.0]], [1, 2], [-1.0, 0.0]),  # or the heavier
    ],
)
def test_known_means(models, weights, wanted):
    each = [{"weight": weight} for weight in weights]
    OpCase(
        KarcherOp,
        models=models,
        each=each,
        expected=wanted,
        identity=[Identity(each=[{"weight": 0.5}, *[{"weight": 0}] * (len(models) - 1)], gives=0)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_delta_space_averages_directions_from_the_base():
    OpCase(
        KarcherOp,
        {"space": "delta"},
        models=[[3.0, 1.0], [1.0, 5.0]],
        base=[1.0, 1.0],
        each=[{}, {}],
        expected=[3.12132034, 3.12132034],
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize(("shape", "count"), [((5,), 2), ((5,), 3), ((30, 40), 5), ((450, 300), 3)])
def test_it_equals_the_steps_on_whole_tensors(shape, count):
    shared = normal(*shape, seed=99)
    models = [shared + normal(*shape, seed=seed) for seed in range(count)]
    weights = [1.0 + seed for seed in range(count)]
    OpCase(
        KarcherOp,
        models=models,
        each=[{"weight": weight} for weight in weights],
        expected=steps_on_tensors(models, weights, 25),
        chunks=(models[0].numel() // 3,),
    ).check()


def test_few_steps_are_the_same_few_steps():
    models = [normal(20, seed=seed).abs() * 3 for seed in range(4)]
    for steps in (0, 1, 2):
        found = run_op(KarcherOp, {"max_iter": steps}, models, each=[{}] * 4)
        assert torch.allclose(found.double(), steps_on_tensors(models, [1.0] * 4, steps), atol=1e-6)


def test_siblings_that_differ_in_the_seventh_digit_give_their_mean():
    shared = normal(1000)
    models = [shared * (1 + 1e-6 * normal(1000, seed=seed)) for seed in (1, 2, 3)]
    found = run_op(KarcherOp, {}, models, each=[{}] * 3)
    assert torch.allclose(found.double(), sum(model.double() for model in models) / 3, rtol=3e-7, atol=0)


@given(st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_of_two_models_of_one_length_it_is_slerp(t, seed):
    a, b = (normal(6, seed=s) for s in (seed, seed + 10))
    a, b = a / a.norm(), b / b.norm()
    found = run_op(KarcherOp, {}, [a, b], each=[{"weight": 1 - t}, {"weight": t}])
    assert torch.allclose(found, run_op(SlerpOp, {"t": t, "dot_threshold": 1.0}, [a, b]), atol=2e-6)


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=4, max_size=4), min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_at_the_mean_the_pulls_cancel(vectors):
    units = np.array([np.array(v) / np.linalg.norm(v) for v in vectors])
    shares = [1.0] * len(units)
    u = karcher_mean(np.clip(units @ units.T, -1, 1), shares, 100, 1e-12) @ units
    angles = np.arccos(np.clip(units @ u, -1, 1))
    pulls = (angles / np.maximum(np.sin(angles), 1e-12))[:, None] * (units - np.cos(angles)[:, None] * u)
    assert np.linalg.norm(u) == pytest.approx(1, abs=1e-9)
    assert np.linalg.norm(pulls.mean(0)) < 1e-6


@pytest.mark.parametrize(("second", "agreement"), [([5.0, 0.0], 1), ([0.0, 3.0], 0.5**0.5), ([-9.0, 0.0], 0)])
def test_how_far_models_agree_is_noted(second, agreement):
    """The mean of two unit vectors is 1 long where they are one, √½ at a right angle, 0 where they are opposite."""
    notes = {}
    models = [torch.tensor([2.0, 0.0]), torch.tensor(second)]
    run_op(KarcherOp, {}, models, each=[{}, {}], notes=notes)
    assert notes == {"agreement": pytest.approx(agreement, abs=1e-9)}


def test_inputs_no_longer_than_tol_are_zero():
    models = [torch.tensor([1e-6, 0.0]), torch.tensor([0.0, 1e-6])]
    assert run_op(KarcherOp, {"tol": 1e-5}, models, each=[{}, {}]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("params", "base", "weights", "text"),
    [
        ({"space": "delta"}, None, [1, 1], "w: space: delta needs a base; name one in `base:`"),
        (
            {},
            torch.ones(1),
            [1, 1],
            "w: space: weight has no use for a base; remove `base:` or set space: delta",
        ),
        ({}, None, [0, 0], "w: the weights are all 0, so that no model counts; give one a weight"),
    ],
)
def test_what_cannot_be_meant_is_refused(params, base, weights, text):
    with pytest.raises(OpError) as error:
        run_op(KarcherOp, params, [torch.ones(1), torch.ones(1)], base, each=[{"weight": w} for w in weights])
    assert str(error.value) == text


def test_weights_are_not_negative():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        run_op(KarcherOp, {}, [torch.ones(1)], each=[{"weight": -1}])
