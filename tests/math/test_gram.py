"""Grams of long vectors, and what follows from them: checked by hand, then against the vectors themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math import gram as grams
from surgery.math.reduce import gram

VECTORS = st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=1, max_size=5)


def test_the_total_of_blocks_is_symmetric():
    assert grams.total([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]).tolist() == [[11.0, 22.0], [22.0, 33.0]]
    assert grams.total([[4.0]]).tolist() == [[4.0]]


def test_the_total_is_exact_whatever_the_order():
    parts = [[1e100], [1.0], [-1e100], [1e-20]]
    assert grams.total(parts).tolist() == grams.total(parts[::-1]).tolist() == [[1.0]]


def test_blocks_of_different_models_are_refused():
    with pytest.raises(ValueError, match="zip"):
        grams.total([[1.0], [1.0, 2.0, 3.0]])


def test_lengths_and_cosines_of_a_right_angle_and_a_half():
    G = grams.total([gram([torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0])])])
    assert grams.norms(G).tolist() == [2.0, 3.0, math.sqrt(2)]
    half = math.sqrt(0.5)
    wanted = [[1, 0, half], [0, 1, half], [half, half, 1]]
    assert np.allclose(grams.cosines(G), wanted, atol=1e-15, rtol=0)


def test_what_has_no_length_has_no_direction():
    G = np.array([[4.0, 0.0, 1e-9], [0.0, 0.0, 0.0], [1e-9, 0.0, 1e-18]])
    assert grams.cosines(G)[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert np.diagonal(grams.cosines(G)).tolist() == [1.0, 0.0, 1.0]
    assert np.diagonal(grams.cosines(G, negligible=1e-9)).tolist() == [1.0, 0.0, 0.0]


def test_the_mean_cosine_leaves_out_pairs_without_an_angle():
    G = np.array([[[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]], np.zeros((3, 3)), np.ones((3, 3))])
    assert grams.mean_cosine(G).tolist() == [0.5, 0.0, 1.0]


def test_the_smallest_vectors_have_cosines():
    tiny = 1e-154  # the product of two such lengths squared is 0
    assert grams.cosines(np.full((2, 2), tiny**2)).tolist() == pytest.approx(np.ones((2, 2)))


def test_nan_and_inf_show():
    G = np.array([[math.nan, math.nan], [math.nan, 1.0]])
    assert np.isnan(grams.cosines(G)[0, 1])
    assert np.isnan(grams.mean_cosine(G))
    assert np.isnan(grams.distances(np.array([[math.inf]]), np.array([1.0]))).all()


@given(VECTORS)
@settings(max_examples=50, deadline=None)
def test_lengths_and_distances_are_those_of_the_vectors(vectors):
    points = np.array(vectors)
    share = np.arange(1.0, len(points) + 1)
    share /= share.sum()
    middle = share @ points
    G = grams.total([gram(list(torch.tensor(vectors, dtype=torch.float64)))])
    scale = 1e-6 * (1 + np.abs(points).max())
    assert grams.length(G, share) == pytest.approx(np.linalg.norm(middle), abs=scale)
    apart = np.linalg.norm(points - middle, axis=1)
    assert grams.distances(G, share) == pytest.approx(apart, abs=scale)


def test_any_origin_gives_the_same_distances():
    points = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = np.array([0.2, 0.3, 0.5])
    from_zero, from_first = grams.total([gram(list(points))]), grams.total([gram(list(points), points[0])])
    assert grams.distances(from_zero, share) == pytest.approx(grams.distances(from_first, share))
