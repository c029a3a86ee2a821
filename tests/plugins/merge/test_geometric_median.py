"""merge.geometric_median: known medians, inputs that are medians, and the optimality that defines it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery_merge.geometric_median import GeometricMedianOp, _step, median

CORNER = (3 - math.sqrt(3)) / 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weiszfeld(models: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """Return the median by steps on whole tensors in float64."""
    points = torch.stack([model.double().reshape(-1) for model in models])
    w = torch.tensor(weights, dtype=torch.float64)
    mu = (w[:, None] * points).sum(0) / w.sum()
    for _ in range(3000 if points.numel() < 10_000 else 50):
        v = w / (points - mu).norm(dim=1).clamp(min=1e-12)
        mu = (v[:, None] * points).sum(0) / v.sum()
    return mu.reshape(models[0].shape)


def cost(points: np.ndarray, weights: np.ndarray, mu: np.ndarray) -> float:
    return float(weights @ np.linalg.norm(points - mu, axis=1))


@pytest.mark.parametrize(
    ("models", "weights", "wanted"),
    [
        ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [1, 1, 1], [CORNER, CORNER]),
        ([[0.0], [0.0], [10.0]], [1, 1, 1], [0.0]),
        ([[0.0], [1.0], [10.0]], [1, 1, 1], [1.0]),  # of numbers it is the median
        ([[0.0], [1.0], [10.0]], [1, 1, 3], [10.0]),
        ([[0.0, 2.0], [4.0, 0.0]], [1, 1], [2.0, 1.0]),  # of two equal ones the mean
        ([[0.0, 2.0], [4.0, 0.0]], [1, 2], [4.0, 0.0]),
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]], [1] * 5, [0.0, 0.0]),
        ([[3.0, 4.0]] * 3, [1, 2, 1], [3.0, 4.0]),
        ([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 50.0]], [1, 1, 1, 0], [CORNER, CORNER]),
    ],
)
def test_known_medians(models, weights, wanted):
    only = [{"weight": 0.5}, *[{"weight": 0}] * (len(models) - 1)]
    OpCase(
        GeometricMedianOp,
        models=models,
        each=[{"weight": weight} for weight in weights],
        expected=wanted,
        identity=[Identity(each=only, gives=0)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_a_model_with_most_of_the_weight_is_copied_to_the_last_bit():
    models = [normal(1000, seed=seed) for seed in range(3)]
    found = run_op(GeometricMedianOp, {}, models, each=[{}, {"weight": 2}, {}])
    assert same_bytes(found, models[1])


@pytest.mark.parametrize("shape", [(5,), (30, 40), (400, 350)])
def test_it_equals_the_steps_on_whole_tensors(shape):
    shared = normal(*shape, seed=99)
    models = [shared + normal(*shape, seed=seed) for seed in range(4)]
    models[3] = shared + 30  # far away
    weights = [1.0, 1.5, 1.2, 1.0]
    OpCase(
        GeometricMedianOp,
        models=models,
        each=[{"weight": weight} for weight in weights],
        expected=weiszfeld(models, weights),
        tolerance=2e-6,
        chunks=(shared.numel() // 3,),
    ).check()


def test_siblings_keep_their_distances():
    # products of the weights themselves would leave nothing of distances 1e-4 of them
    shared = 10 * normal(1000)
    models = [shared + 1e-4 * normal(1000, seed=seed) for seed in range(1, 5)]
    models[3] = shared + 1
    found = run_op(GeometricMedianOp, {}, models, each=[{}] * 4)
    near = sum(model.double() for model in models[:3]) / 3
    assert (found.double() - near).abs().max() < 3e-4  # the mean of all four is 0.25 away


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=2, max_size=5),
    st.lists(st.floats(0.1, 3), min_size=5, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_no_point_nearby_is_better(vectors, given_weights):
    points, weights = np.array(vectors), np.array(given_weights[: len(vectors)])
    from_first = points - points[0]
    mu = median(from_first @ from_first.T, weights.tolist(), 5000, 1e-12) @ points
    least = cost(points, weights, mu)
    slack = 1e-5 * (1 + least)
    for direction in [*np.eye(3), *-np.eye(3)]:
        assert least <= cost(points, weights, mu + 0.1 * direction) + slack
    for point in points:
        assert least <= cost(points, weights, point) + slack


def test_a_step_from_an_input_goes_as_far_as_the_others_outweigh_it():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    weights = np.ones(3) / 3
    moved = _step(points @ points.T, weights, np.array([1.0, 0.0, 0.0]), 1e-9)
    # both others pull with 1/3, together √2/3; 1/3 of it is held: 1 - 1/√2 of the way to their middle
    assert moved @ points == pytest.approx(np.full(2, (1 - math.sqrt(0.5)) / 2))


def test_over_the_whole_model_a_point_is_the_whole_model():
    shared = {"p": torch.zeros(1), "q": torch.zeros(1)}
    models = {
        "a": shared,
        "b": {"p": torch.tensor([1.0]), "q": torch.tensor([0.0])},
        "c": {"p": torch.tensor([0.0]), "q": torch.tensor([1.0])},
    }
    made = run_model_op(GeometricMedianOp, {"scope": "model"}, models)
    assert [made["p"].item(), made["q"].item()] == pytest.approx([CORNER, CORNER], abs=1e-7)


def test_one_model_must_count():
    with pytest.raises(OpError) as error:
        run_op(GeometricMedianOp, {}, [torch.ones(1), torch.ones(1)], each=[{"weight": 0}] * 2)
    assert str(error.value) == "w: the weights are all 0, so that no model counts; give one a weight"
