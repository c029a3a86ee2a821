"""A random basis: its numbers, what it can say exactly, least squares by another way, and the round trip."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.math.random import stream_key, uniform
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_emitting_op
from surgery_delta._basis import A, B, Span, fitted
from surgery_delta.basis import Basis, basis, parts
from tests.plugins.delta.conftest import UP, applied, back, normal, stored

STACK = Role("experts.up", layer=0)
DRAWN = [
    *(-0.869049072265625, -0.7276957035064697, 0.8597794771194458),
    *(-0.44252312183380127, -0.10312342643737793, -0.45251667499542236),
]


def energy(model: torch.Tensor, **params: object) -> float:
    notes: dict[str, float] = {}
    base = torch.zeros_like(model)
    run_emitting_op(basis, params, [model], base, name="w", role=UP, notes=notes)
    return notes["energy"]


def matrices(name: str, stream: int, size: int, rank: int, count: int, seed: int = 0) -> torch.Tensor:
    """Return the random matrices [count, size, rank], drawn one by one as the documentation says."""
    key = stream_key(seed, "delta.basis", name, stream)
    draws = uniform(key, 0, torch.empty(size * rank * count, dtype=torch.float64))
    made = torch.empty(count, size, rank, dtype=torch.float64)
    for i in range(size):
        for k in range(rank):
            for j in range(count):
                made[j, i, k] = (2 * draws[(i * rank + k) * count + j] - 1) * math.sqrt(3 / (size * rank))
    return made


def summed(made: dict[str, torch.Tensor], shape: tuple[int, int], rank: int, **how: int) -> torch.Tensor:
    """Return B·A of what is stored, in float64."""
    beta, alpha = made["beta"].double(), made["alpha"].double()
    left = torch.einsum("j,jik->ik", beta, matrices("w", B, shape[0], rank, len(beta), **how))
    right = torch.einsum("j,jik->ik", alpha, matrices("w", A, shape[1], rank, len(alpha), **how))
    return left @ right.T


def test_the_numbers_are_part_of_the_format():
    """They must never change: files hold coefficients only."""
    rows = Span("model.w", B, 7, 4, 2, 3).rows(1, 2)
    root = math.sqrt(3 / 8)  # of four rows and two columns
    assert (rows / root).flatten().tolist() == pytest.approx(DRAWN, rel=1e-14)
    assert rows.dtype is torch.float64
    assert float(Span("w", A, 0, 100, 8, 50).rows(0, 100).square().sum()) == pytest.approx(50, rel=0.01)


def test_of_one_random_matrix_each_the_coefficient_is_found():
    """With a single B₁ and A₁ of rank one τ = 6·B₁·A₁ is 6 at most in one number; the lengths are shared."""
    one, other = matrices("w", B, 5, 1, 1)[0], matrices("w", A, 4, 1, 1)[0]
    model = (6 * one @ other.T).float()
    made = stored(basis, model, rank=1, basis=1, sweeps=1)
    assert float(made["beta"] * made["alpha"]) == pytest.approx(6, rel=1e-6)
    lengths = float(made["beta"].abs() * one.norm()), float(made["alpha"].abs() * other.norm())
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)


def test_a_product_that_lies_in_the_span_is_exact():
    b, a = normal(20, seed=1).double(), normal(20, seed=2).double()
    left = torch.einsum("j,jik->ik", b, matrices("w", B, 40, 1, 20))
    right = torch.einsum("j,jik->ik", a, matrices("w", A, 30, 1, 20))
    model = (left @ right.T).float()
    assert energy(model, rank=1, basis=20) == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(back(basis, model, rank=1, basis=20), model, rtol=1e-4, atol=1e-6)


def test_as_many_matrices_as_numbers_are_the_best_of_the_rank():
    model = normal(12, 9)
    S = torch.linalg.svdvals(model.double()).square()
    assert energy(model, rank=3, basis=1000) == pytest.approx(float(S[:3].sum() / S.sum()), rel=1e-6)
    made = stored(basis, model, rank=3, basis=1000)
    assert (made["beta"].shape, made["alpha"].shape) == ((36,), (27,))


def test_less_is_kept_of_what_was_trained_without_it():
    """A share of the numbers keeps a share of the change; more keep more."""
    model = normal(30, 4, seed=1) @ normal(4, 30, seed=2)
    found = [energy(model, rank=4, basis=count) for count in (6, 30, 60, 120)]
    assert found == sorted(found)
    assert found[0] < 0.2
    assert found[-1] == pytest.approx(1, abs=1e-9)


def test_another_seed_is_another_basis():
    made = stored(basis, normal(6, 5), rank=2, basis=4, seed=1)
    assert not torch.equal(made["beta"], stored(basis, normal(6, 5), rank=2, basis=4)["beta"])
    found = back(basis, normal(6, 5), rank=2, basis=4, seed=1).double()
    torch.testing.assert_close(found, summed(made, (6, 5), 2, seed=1), rtol=0, atol=1e-6)


def test_no_sweep_adds_to_the_error():
    model = normal(20, 15).double()
    spans = Span("w", B, 0, 20, 3, 25), Span("w", A, 0, 15, 3, 25)
    left = [fitted(model, *spans, sweeps)[2] for sweeps in range(1, 8)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < left[0]


@given(st.integers(2, 10), st.integers(2, 10), st.integers(1, 3), st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_coefficients_are_least_squares_on_the_change(rows, columns, rank, count, seed):
    """α is the solution of the dense system whose columns are B·Aⱼ; nothing is near where B is."""
    rank = min(rank, rows, columns)
    count = min(count, rank * rows, rank * columns)
    model = normal(rows, columns, seed=seed).double()
    spans = Span("w", B, 0, rows, rank, count), Span("w", A, 0, columns, rank, count)
    beta, alpha, left = fitted(model, *spans, 2)
    tall = spans[0].factor(beta)
    system = torch.stack([(tall @ one.T).flatten() for one in matrices("w", A, columns, rank, count)], 1)
    least = torch.linalg.lstsq(system, model.flatten(), driver="gelsd").solution
    best = float((system @ least - model.flatten()).square().sum())
    ours = float((system @ alpha - model.flatten()).square().sum())
    assert ours == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert left == pytest.approx(ours, rel=1e-6, abs=1e-9)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_round_trip_is_the_sum_of_matrices(rows, columns, rank, count, seed):
    base, model = normal(rows, columns, seed=seed), normal(rows, columns, seed=seed + 1)
    params = {"rank": rank, "basis": count, "sweeps": 1}
    cut = min(rank, rows, columns)
    expected = base.double() + summed(stored(basis, model, base, **params), (rows, columns), cut)
    torch.testing.assert_close(back(basis, model, base, **params).double(), expected, rtol=0, atol=4e-6)


def test_experts_in_one_tensor_have_bases_and_coefficients_of_their_own():
    model = normal(3, 6, 5)
    params = {"rank": 2, "basis": 100, "sweeps": 2}
    made = stored(basis, model, role=STACK, **params)
    assert (made["beta"].shape, made["alpha"].shape) == ((3, 12), (3, 10))
    found = back(basis, model, role=STACK, **params)
    U, S, Vh = torch.linalg.svd(model)
    best = (U[:, :, :2] * S[:, None, :2]) @ Vh[:, :2]
    torch.testing.assert_close(found, best, rtol=0, atol=1e-4)
    assert not torch.equal(Span("w[0]", B, 0, 6, 2, 3).rows(0, 6), Span("w[1]", B, 0, 6, 2, 3).rows(0, 6))


def test_a_change_of_nothing_is_zero():
    assert back(basis, torch.ones(4, 5), torch.ones(4, 5), basis=3).tolist() == [[1] * 5] * 4


def test_what_is_stored_does_not_grow_with_the_matrix():
    for size in (1024, 4096):
        spec = TensorSpec("w", (size, size), "BF16")
        signature = Signature("w", (spec,), spec, (), UP, spec.numel)
        sizes = {part.spec.name: part.spec.numel for part in parts(signature, Basis())}
        assert sizes == {"w.beta": 512, "w.alpha": 512, "w.base": size * size // 65536}


def test_what_is_decoded_for_all_blocks_is_declared():
    params = {"rank": 2, "basis": 4}
    made = stored(basis, normal(8, 9), **params)
    assert applied(basis, made, torch.zeros(8, 9), **params).whole_file_bytes() == 8 * (4 + 2 * 9)
