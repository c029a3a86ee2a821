"""The nearest reflections: against all angles of a plane, against random vectors, and those that were there."""

from __future__ import annotations

import math

import pytest
import torch

from surgery_delta._hyperplanes import nearest, turned
from tests.plugins.delta.conftest import normal

ANGLES = torch.linspace(0, math.pi, 721, dtype=torch.float64)
PLANE = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def units(*shape: int, seed: int) -> torch.Tensor:
    vectors = normal(*shape, seed=seed).double()
    return vectors / vectors.norm(dim=-1, keepdim=True)


def error(X: torch.Tensor, Y: torch.Tensor, *vectors: torch.Tensor) -> float:
    return float((turned(X, vectors) - Y).square().sum())


def same_line(one: torch.Tensor, other: torch.Tensor) -> bool:
    return abs(float(one @ other)) == pytest.approx(float(one.norm() * other.norm()), rel=1e-9)


def test_a_reflection_by_hand():
    """u = [3, 4]/5: I - 2uuᵀ = [[7, -24], [-24, -7]]/25."""
    u = torch.tensor([0.6, 0.8], dtype=torch.float64)
    found = 25 * turned(torch.eye(2, dtype=torch.float64), (u,))
    torch.testing.assert_close(found, torch.tensor([[7.0, -24], [-24, -7]], dtype=torch.float64))


def test_u_and_v_by_hand():
    """I - e₁e₁ᵀ + e₂e₂ᵀ = diag(0, 2); with u = v it is I."""
    e = torch.eye(2, dtype=torch.float64)
    assert turned(e, (e[0], e[1])).tolist() == [[0, 0], [0, 2]]
    torch.testing.assert_close(turned(normal(3, 2).double(), (e[0], e[0])), normal(3, 2).double())


def test_the_form_of_the_error_is_the_error():
    """What the module's head says, for random vectors."""
    X, Y = normal(7, 4, seed=1).double(), normal(7, 4, seed=2).double()
    G, S, start = X.T @ X, X.T @ Y + Y.T @ X, float((X - Y).square().sum())
    for seed in range(5):
        u, v = units(2, 4, seed=seed)
        assert error(X, Y, u) == pytest.approx(start + 2 * float(u @ S @ u))
        T = S - 2 * G
        form = u @ T @ u + u @ G @ u - v @ T @ v + v @ G @ v - 2 * (u @ v) * (u @ G @ v)
        assert error(X, Y, u, v) == pytest.approx(start + float(form))


@pytest.mark.parametrize("seed", range(5))
def test_no_angle_is_nearer_than_the_reflection(seed):
    X, Y = normal(5, 2, seed=seed).double(), normal(5, 2, seed=seed + 50).double()
    (found,) = nearest(X[None], Y[None], 1, None, plus=False)
    best = min(error(X, Y, u) for u in PLANE)
    assert error(X, Y, found[0]) <= best
    assert error(X, Y, found[0]) == pytest.approx(min(best, float((X - Y).square().sum())), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_no_pair_of_angles_is_nearer_than_u_and_v(seed):
    X, Y = normal(5, 2, seed=seed).double(), normal(5, 2, seed=seed + 50).double()
    u, v = nearest(X[None], Y[None], 50, None, plus=True)
    coarse = PLANE[::8]
    best = min(error(X, Y, one, other) for one in coarse for other in coarse)
    assert error(X, Y, u[0], v[0]) <= best * (1 + 1e-9)


def test_no_random_vectors_are_nearer():
    X = normal(40, 6, seed=1).double()
    Y = turned(X, tuple(units(2, 6, seed=2))) + 0.1 * normal(40, 6, seed=3)
    (alone,) = nearest(X[None], Y[None], 1, None, plus=False)
    u, v = nearest(X[None], Y[None], 50, None, plus=True)
    for seed in range(200):
        one, other = units(2, 6, seed=seed)
        assert error(X, Y, one) >= error(X, Y, alone[0])
        assert error(X, Y, one, other) > error(X, Y, u[0], v[0])


def test_reflections_that_were_there_are_found():
    X, u = normal(3, 30, 8, seed=1).double(), units(3, 8, seed=2)
    Y = torch.stack([turned(one, (vector,)) for one, vector in zip(X, u, strict=True)])
    (found,) = nearest(X, Y, 1, None, plus=False)
    assert all(same_line(*pair) for pair in zip(found, u, strict=True))
    assert all(float(vector.max()) == float(vector.abs().max()) for vector in found)


@pytest.mark.parametrize("angle", [0.01, 0.5, 1.5])
def test_u_and_v_that_were_there_are_found_whatever_their_angle(angle):
    X, (u, w) = normal(30, 8, seed=1).double(), torch.linalg.qr(normal(8, 2, seed=2).double())[0].T
    v = math.cos(angle) * u + math.sin(angle) * w
    Y = turned(X, (u, v))
    found = nearest(X[None], Y[None], 100, None, plus=True)
    H = torch.outer(v, v) - torch.outer(u, u)
    one, other = found[0][0], found[1][0]
    torch.testing.assert_close(
        torch.outer(other, other) - torch.outer(one, one), H, rtol=0, atol=1e-6 * float(H.norm())
    )


def test_what_nothing_brings_nearer_stays():
    X = normal(6, 3).double()
    assert [vector.abs().sum() for vector in nearest(X[None], X[None], 3, None, plus=False)] == [0]
    assert [vector.abs().sum() for vector in nearest(X[None], X[None], 3, None, plus=True)] == [0, 0]
    nothing = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(turned(X, (nothing,)), X)


def test_known_vectors_are_never_left_for_worse_ones():
    X, Y = normal(9, 5, seed=1).double(), normal(9, 5, seed=2).double()
    u, v = nearest(X[None], Y[None], 50, None, plus=True)
    again = nearest(X[None], Y[None], 1, (u, v), plus=True)
    assert error(X, Y, again[0][0], again[1][0]) <= error(X, Y, u[0], v[0]) * (1 + 1e-12)
