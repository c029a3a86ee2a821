"""Polar factors against numbers by hand, scipy's definition, and themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.polar import numerical_svd, polar
from surgery.math.ranks import exact_bytes, polar_bytes

EPSILON = torch.finfo(torch.float32).eps


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_diagonal_keeps_its_signs():
    assert polar(torch.diag(torch.tensor([3.0, -2.0])), EPSILON).tolist() == [[1, 0], [0, -1]]


def test_a_rotation_times_a_stretch_gives_the_rotation():
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    stretch = torch.tensor([[5.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(polar(turn @ stretch, EPSILON), turn, atol=1e-14)


def test_a_direction_that_is_not_there_stays_out():
    """Twice the same column: one direction of length √2, divided among both."""
    M = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    half = math.sqrt(0.5)
    assert torch.allclose(polar(M, EPSILON), torch.tensor([[half, half], [0, 0]], dtype=torch.float64))
    everything = polar(M, None)
    assert torch.allclose(everything.T @ everything, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_a_zero_matrix_has_no_direction(shape):
    assert polar(torch.zeros(shape), EPSILON).tolist() == torch.zeros(shape).tolist()
    U, S, Vh = numerical_svd(torch.zeros(shape), EPSILON)
    assert (U.shape, S.shape, Vh.shape) == ((shape[0], 0), (0,), (0, shape[1]))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 6)])
def test_it_is_m_times_the_inverse_root_of_its_gram(shape):
    """polar(M) = M (MᵀM)^-½, by eigenvalues of the smaller Gram matrix."""
    M = noise(*shape)
    wide = M if shape[0] >= shape[1] else M.T
    values, vectors = torch.linalg.eigh(wide.T @ wide)
    wanted = wide @ (vectors * values.rsqrt()) @ vectors.T
    assert torch.allclose(polar(M, EPSILON), wanted if wide is M else wanted.T, atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_its_singular_values_are_one_as_many_as_the_rank(rows, columns, rank, scale):
    M = scale * noise(rows, rank) @ noise(rank, columns, seed=1)
    P = polar(M, EPSILON)
    values = torch.linalg.svdvals(P)
    rank = min(rank, rows, columns)
    assert torch.allclose(values[:rank], torch.ones(rank, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(values[rank:], torch.zeros(1, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(P @ (P.T @ M), M, atol=1e-6 * scale)


def test_what_is_below_the_rounding_unit_is_noise():
    M = torch.diag(torch.tensor([1.0, 4e-7, 2e-7]))
    kept = [len(numerical_svd(M, epsilon)[1]) for epsilon in (EPSILON, 1e-7, 1e-9)]
    assert kept == [2, 2, 3]
    assert numerical_svd(M, EPSILON)[1].tolist() == pytest.approx([1, 4e-7])


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30)])
@pytest.mark.parametrize("weakest", [1e-2, 1.1e-4, 1e-7])
def test_weak_directions_are_as_exact_as_strong_ones(shape, weakest):
    """Squares of 1e-7 drown in those of 1: by the Gram matrix alone the weakest would be all noise."""
    small = min(shape)
    U, V = (torch.linalg.qr(noise(side, small, seed=side))[0] for side in shape)
    S = torch.logspace(0, math.log10(weakest), small, dtype=torch.float64)
    M = (U * S) @ V.T
    found = numerical_svd(M, None)
    assert torch.allclose(found[1], S, rtol=1e-7, atol=0)
    assert torch.allclose(found[0].T @ found[0], torch.eye(small, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(polar(M, None), U @ V.T, atol=1e-7)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_the_first_few_are_the_largest(shape):
    M = noise(*shape)
    U, S, Vh = numerical_svd(M, EPSILON, most=3)
    assert (U.shape, S.shape, Vh.shape) == ((shape[0], 3), (3,), (3, shape[1]))
    assert torch.allclose(S, torch.linalg.svdvals(M)[:3])
    assert torch.allclose(U.T @ M, S[:, None] * Vh)
    assert len(numerical_svd(M, EPSILON, most=99)[1]) == 20


def test_the_same_bytes_twice_and_the_factors_multiply_to_the_matrix():
    M = noise(30, 20)
    U, S, Vh = numerical_svd(M, EPSILON)
    assert torch.allclose((U * S) @ Vh, M, atol=1e-12)
    assert torch.equal(polar(M, EPSILON), polar(M, EPSILON))


def test_its_memory_is_that_of_the_decomposition_and_the_product():
    assert polar_bytes((300, 200)) == exact_bytes((300, 200)) + 8 * 300 * 200
