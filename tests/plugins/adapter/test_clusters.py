from __future__ import annotations

import pytest
import torch

from surgery_adapter._clusters import clustered
from tests.plugins.adapter.conftest import filled


def labels(points: torch.Tensor, k: int, restarts: int = 10, seed: int = 0) -> list[int]:
    points = points.double()
    return clustered(points @ points.T, k, restarts, seed).tolist()


def spread(points: torch.Tensor, found: list[int]) -> float:
    points, which = points.double(), torch.tensor(found)
    return sum(float((points[which == c] - points[which == c].mean(0)).square().sum()) for c in set(found))


def test_points_that_lie_together_are_together():
    points = torch.tensor([[0.0], [10.0], [0.1], [10.1], [20.0]])
    found = labels(points, 3)
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert len(set(found)) == 3


def test_the_best_of_all_partitions_is_found():
    points = filled(8, 2)
    every = [[(code >> bit) & 1 for bit in range(8)] for code in range(1, 2**7)]
    assert spread(points, labels(points, 2)) == pytest.approx(min(spread(points, one) for one in every))


def test_no_cluster_is_empty_even_where_points_are_the_same():
    assert sorted(set(labels(torch.ones(5, 3), 3))) == [0, 1, 2]


def test_runs_depend_on_the_seed_alone():
    points = filled(30, 4)
    assert labels(points, 5, 1) == labels(points, 5, 1)
    assert any(labels(points, 5, 1) != labels(points, 5, 1, seed) for seed in range(1, 5))


def test_more_restarts_are_no_worse():
    points = filled(40, 3)
    assert spread(points, labels(points, 6, 20)) <= spread(points, labels(points, 6, 1)) * (1 + 1e-9)
