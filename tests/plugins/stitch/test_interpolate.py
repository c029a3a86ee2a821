"""Vectors as combinations of a few given ones: by hand, and by an independent pursuit in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery_stitch._interpolate import batches, combine, nearest, pursue, transplanted

AXES = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def reference(target, points, k):
    """Orthogonal matching pursuit as the paper writes it, one vector at a time."""
    chosen: list[int] = []
    norms = np.linalg.norm(points, axis=1)
    residual, weights = target.copy(), np.zeros(0)
    for _ in range(k):
        scores = np.abs(points @ residual) / np.where(norms > 0, norms, np.inf)
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        weights = np.linalg.lstsq(points[chosen].T, target, rcond=None)[0]
        residual = target - weights @ points[chosen]
    return chosen, weights


def test_a_vector_that_is_given_is_itself():
    chosen, weights = pursue(AXES[1:2] * 3, AXES, 2)
    assert chosen[0, 0] == 1
    assert weights.tolist() == [[pytest.approx(3, rel=1e-9), 0]]


def test_two_vectors_express_what_lies_between_them():
    # (5, 1, 0): nearest to the first axis, then to what is left, (0, 1, 0)
    chosen, weights = pursue(torch.tensor([[5.0, 1.0, 0.0]]), AXES, 2)
    assert chosen.tolist() == [[0, 1]]
    assert weights[0].tolist() == pytest.approx([2.5, 1.0], rel=1e-9)


def test_what_cannot_be_expressed_is_left():
    chosen, weights = pursue(torch.tensor([[1.0, 0.0, 7.0]]), AXES, 1)
    assert (chosen.tolist(), weights.tolist()) == ([[0]], [[pytest.approx(0.5, rel=1e-9)]])


def test_pursuit_is_that_of_the_paper():
    torch.manual_seed(0)
    points, targets = torch.randn(60, 20), torch.randn(5, 20)
    chosen, weights = pursue(targets, points, 8)
    for i in range(5):
        index, expected = reference(targets[i].double().numpy(), points.double().numpy(), 8)
        assert chosen[i].tolist() == index
        assert weights[i].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_vector_of_nothing_has_no_weight():
    _, weights = pursue(torch.zeros(2, 3), AXES, 3)
    assert weights.abs().max() == 0


def test_no_more_are_chosen_than_there_are():
    assert pursue(AXES[:1], AXES, 99)[0].shape == (1, 3)  # columns are fewer than vectors
    assert nearest(AXES[:1], AXES[:2], 99, "euclidean", "distance")[0].shape == (1, 2)


def test_the_nearest_are_weighted_by_one_over_their_distance():
    # at distance 1 of (2,0,0) and of nothing else; sqrt(5) of (1,1,0)... by hand: |(3,0,0)-(1,1,0)| = sqrt(5)
    chosen, weights = nearest(torch.tensor([[3.0, 0.0, 0.0]]), AXES, 2, "euclidean", "distance")
    assert chosen.tolist() == [[0, 2]]
    total = 1 + 1 / 5**0.5
    assert weights[0].tolist() == pytest.approx([1 / total, 1 / 5**0.5 / total], rel=1e-6)


def test_a_vector_that_is_given_is_its_own_nearest():
    chosen, weights = nearest(AXES[2:3], AXES, 3, "euclidean", "distance")
    assert chosen[0, 0] == 2
    assert weights[0, 0] == pytest.approx(1, abs=1e-9)


def test_cosine_looks_at_directions_alone():
    chosen, _ = nearest(torch.tensor([[0.1, 0.0, 0.0]]), AXES, 1, "cosine", "distance")
    assert chosen.tolist() == [[0]]
    assert nearest(torch.tensor([[0.1, 0.0, 0.0]]), AXES, 1, "euclidean", "distance")[0].tolist() == [[3]]


@pytest.mark.parametrize(("weights", "total"), [("barycentric", 1.0), ("least_squares", 1.5)])
def test_the_best_weights_add_up_to_one_or_to_anything(weights, total):
    # (1.5, 0, 0) of (1, 0, 0) and (1, 1, 0): exactly 1.5 of the first; with a sum of one, (1, 0)
    points = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    chosen, found = nearest(torch.tensor([[1.5, 0.0, 0.0]]), points, 2, "euclidean", weights)
    assert float(found.sum()) == pytest.approx(total, rel=1e-6)
    assert float(found[0, chosen[0].tolist().index(1)]) == pytest.approx(0, abs=1e-6)


def test_a_combination_is_made_of_the_same_places_of_other_vectors():
    chosen, weights = torch.tensor([[1, 0]]), torch.tensor([[2.0, 3.0]])
    assert combine(chosen, weights, torch.tensor([[1.0], [10.0]])).tolist() == [[23.0]]


def test_batches_change_nothing(monkeypatch):
    torch.manual_seed(1)
    points, targets, rows = torch.randn(30, 8), torch.randn(7, 8), torch.randn(30, 5)
    whole = transplanted(targets, points, rows, 4, pursue)
    monkeypatch.setattr("surgery_stitch._interpolate.BATCH_BYTES", 1)
    assert len(list(batches(targets, points, 4))) == 7
    assert torch.allclose(transplanted(targets, points, rows, 4, pursue), whole, rtol=1e-5, atol=1e-6)
    assert transplanted(targets[:0], points, rows, 4, pursue).shape == (0, 5)
