"""Singular value decompositions against numbers by hand, and numpy's."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from surgery.math.svd import (
    numerical_rank,
    rank_for_energy,
    sketch_draws,
    svd_exact,
    svd_largest,
    svd_randomized,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decaying(rows, columns, rate=0.8, seed=0):
    """A matrix with singular values 1, rate, rate², ..."""
    generator = torch.Generator().manual_seed(seed)
    small = min(rows, columns)
    U = torch.linalg.qr(torch.randn(rows, small, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(columns, small, generator=generator, dtype=torch.float64))[0]
    return (U * rate ** torch.arange(small, dtype=torch.float64)) @ V.T


def test_a_diagonal_is_its_own_decomposition():
    U, S, Vh = svd_exact(torch.diag(torch.tensor([3.0, -2.0, 1.0])))
    assert S.tolist() == [3, 2, 1]
    assert U.tolist() == torch.eye(3).tolist()
    assert Vh.tolist() == [[1, 0, 0], [0, -1, 0], [0, 0, 1]]
    assert U.dtype == S.dtype == Vh.dtype == torch.float64


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6), (6, 1), (33, 70)])
def test_factors_are_orthogonal_signed_and_multiply_to_the_matrix(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    U, S, Vh = svd_exact(W)
    small = min(shape)
    assert U.shape == (shape[0], small)
    assert Vh.shape == (small, shape[1])
    assert torch.allclose((U * S) @ Vh, W.double(), atol=1e-12)
    assert torch.allclose(U.T @ U, torch.eye(small, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(Vh @ Vh.T, torch.eye(small, dtype=torch.float64), atol=1e-12)
    assert bool((U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all())
    assert np.allclose(S.numpy(), np.linalg.svd(W.double().numpy(), compute_uv=False), atol=1e-12)


def test_turning_the_matrix_about_turns_right_vectors_and_leaves_left_ones():
    W = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    (U, S, Vh), (U2, S2, Vh2) = svd_exact(W), svd_exact(-W)
    assert torch.allclose(U, U2)
    assert torch.allclose(S, S2)
    assert torch.allclose(Vh, -Vh2)


def test_a_matrix_of_low_rank_is_found_exactly_by_chance():
    W = (decaying(60, 5) @ decaying(5, 90, seed=1)).float()
    U, S, Vh = svd_randomized(W, 5, sketch_draws("w", (60, 90), 5))
    assert torch.allclose((U * S) @ Vh, W.double(), atol=1e-6)
    assert numerical_rank(svd_exact(W)[1], (60, 90), torch.finfo(torch.float32).eps) == 5


@pytest.mark.parametrize("shape", [(80, 50), (50, 80)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_randomized_error_is_the_best_one(shape, dtype):
    W = decaying(*shape).to(dtype)
    U, S, Vh = svd_randomized(W, 10, sketch_draws("w", shape, 10))
    best = svd_exact(W)[1]
    assert S.shape == (10,)
    assert torch.allclose(S, best[:10], rtol=1e-5)
    error, least = (W - (U * S) @ Vh).norm(), best[10:].norm()
    assert least * (1 - 1e-6) <= error <= least * 1.001
    assert bool((U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all())


def test_a_flat_spectrum_costs_the_randomized_method_little():
    """The hardest case: white noise, whose singular values hardly fall."""
    W = torch.randn(120, 120, generator=torch.Generator().manual_seed(3))
    U, S, Vh = svd_randomized(W, 20, sketch_draws("w", (120, 120), 20))
    least = svd_exact(W)[1][20:].norm()
    assert (W - (U * S) @ Vh).norm() <= 1.03 * least


def test_small_matrices_are_decomposed_whole_and_large_ones_by_their_name(monkeypatch):
    W = torch.rand(12, 40)
    found = svd_largest(W, 3, "w")
    assert all(torch.equal(one, other) for one, other in zip(found, svd_exact(W), strict=True))
    monkeypatch.setattr("surgery.math.ranks.EXACT_UP_TO", 11)
    found = svd_largest(W, 3, "w")
    named = svd_randomized(W, 3, sketch_draws("w", (12, 40), 3))
    assert found[0].shape == (12, 3)
    assert all(torch.equal(one, other) for one, other in zip(found, named, strict=True))


def test_draws_are_those_of_the_name_and_the_same_twice():
    assert torch.equal(sketch_draws("a", (9, 9), 2), sketch_draws("a", (9, 9), 2))
    assert not torch.equal(sketch_draws("a", (9, 9), 2), sketch_draws("b", (9, 9), 2))
    assert sketch_draws("a", (9, 9), 0).shape == (72,)


def test_the_same_bytes_twice():
    W = decaying(64, 48).float()
    draws = sketch_draws("w", (64, 48), 8)
    for first, second in zip(svd_randomized(W, 8, draws), svd_randomized(W, 8, draws), strict=True):
        assert torch.equal(first, second)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^svd_randomized: rank must be 0 to 3, got 4$"):
        svd_randomized(torch.zeros(3, 5), 4, torch.rand(99))
    with pytest.raises(ValueError, match=r"^svd_randomized: needs 15 draws, got 14$"):
        svd_randomized(torch.zeros(3, 5), 1, torch.rand(14))


@pytest.mark.parametrize(
    ("energy", "rank"), [(13 / 14, 2), (0.92, 2), (0.93, 3), (9 / 14, 1), (1e-9, 1), (1.0, 3), (0.0, 0)]
)
def test_energy_of_3_2_1(energy, rank):
    """Squares 9, 4, 1 of 14."""
    assert rank_for_energy(torch.tensor([3.0, 2.0, 1.0]), energy) == rank


def test_a_zero_matrix_has_rank_0():
    U, S, Vh = svd_exact(torch.zeros(3, 2))
    assert rank_for_energy(S, 0.9) == 0
    assert numerical_rank(S, (3, 2), 1e-7) == 0
    assert torch.equal((U * S) @ Vh, torch.zeros(3, 2, dtype=torch.float64))
    assert rank_for_energy(torch.zeros(0), 0.9) == 0


PEAK = """
import resource, torch
from surgery.math.svd import *
torch.set_num_threads(1)
svd_exact(torch.rand(9, 9)), svd_randomized(torch.rand(30, 30), 2, torch.rand(999))
shape = {shape}
W, draws = torch.rand(shape), sketch_draws("w", shape, {rank} or 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept = svd_randomized(W, {rank}, draws) if {rank} else svd_exact(W)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * {unit})
"""


@pytest.mark.parametrize(("shape", "rank"), [((700, 500), 0), ((2600, 300), 0), ((1500, 1500), 60)])
def test_temporaries_stay_below_what_is_declared(shape, rank):
    from surgery.math.ranks import exact_bytes, randomized_bytes

    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    code = PEAK.format(shape=shape, rank=rank, unit=unit)
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    declared = randomized_bytes(shape, rank) if rank else exact_bytes(shape)
    assert int(ran.stdout) <= declared
