"""merge.dop against numbers by hand, the losses that it balances, and the equation solved as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.dop import dop
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, low_rank_models, random_models

TINY = {**ALL, "ridge": 1e-12}


def part(delta, share):
    """U [R,k], S [k], Vh [k,C] that reach a share of the singular values' sum."""
    U, S, Vh = np.linalg.svd(delta, full_matrices=False)
    count = 0 if share == 0 else int(np.nonzero(np.cumsum(S) / S.sum() >= share * (1 - 1e-12))[0][0]) + 1
    return U[:, :count], S[:count], Vh[:count]


def by_kronecker(first, second, alpha, share, ridge):
    """The equation with X as one vector of R·C unknowns."""
    rows, columns = first.shape
    A, B, C = np.zeros((rows, rows)), np.zeros((columns, columns)), np.zeros((rows, columns))
    for weight, tau in ((alpha, first), (1 - alpha, second)):
        U, S, Vh = part(tau, share)
        A += weight * (U * S**2) @ U.T
        B += weight * (Vh.T * S**2) @ Vh
        C += weight * ((U * S**2) @ U.T @ tau + tau @ (Vh.T * S**2) @ Vh)
    pull = ridge * np.trace(A) * (1 / rows + 1 / columns)
    C += pull * (alpha * first + (1 - alpha) * second)
    system = np.kron(A, np.eye(columns)) + np.kron(np.eye(rows), B.T) + pull * np.eye(rows * columns)
    return np.linalg.solve(system, C.ravel()).reshape(rows, columns)


def loss(X, tau, share):
    U, S, Vh = part(tau, share)
    return np.sum((S[:, None] * (U.T @ (X - tau))) ** 2) + np.sum(((X - tau) @ Vh.T * S) ** 2)


def test_each_direction_leans_to_the_model_that_is_strong_in_it():
    """(τ₁³ + τ₂³)/(τ₁² + τ₂²) for diagonals: 9/5 of 1 and 2, 3 of 3 and 0."""
    OpCase(
        dop,
        TINY,
        models=[diag(1, 3), diag(2, 0)],
        base=ZERO,
        each=[{}, {}],
        expected=diag(9 / 5, 3),
        identity=[
            Identity({"lambda": 0}, gives=-1),
            Identity(each=[{"weight": 0}, {}], gives=1),
            Identity({"lambda": 0.5}, each=[{"weight": 2}, {"weight": 0}], gives=0),
        ],
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize(("alpha", "wanted"), [(0, 2), (0.2, (0.2 + 0.8 * 8) / (0.2 + 0.8 * 4)), (1, 1)])
def test_alpha_weighs_what_was_there_first(alpha, wanted):
    models = [diag(1, 1), diag(2, 2)]
    given = {"models": models, "base": ZERO, "each": [{}, {}]}
    OpCase(dop, {**TINY, "alpha": alpha}, **given, expected=diag(wanted, wanted)).check()


def test_where_no_direction_counts_the_mean_does():
    """Rows and columns 2 of both models are empty, and the number there would be 0/0."""
    models = [torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([[4.0, 0.0], [0.0, 3.0]])]
    given = {"models": models, "base": ZERO, "each": [{}, {}]}
    OpCase(dop, {**TINY, "share": 0.5}, **given, expected=diag(4, 2)).check()
    OpCase(dop, {**ALL, "share": 0, "alpha": 0.25}, **given, expected=diag(4, 2.5)).check()


def test_equal_deltas_stay_and_models_that_are_the_base_leave_it():
    models, base = random_models((5, 4), 1, dtype=torch.float64)
    twice = run_op(dop, {**ALL, "ridge": 1e-3}, models * 2, base, each=[{}] * 2)
    assert torch.allclose(twice, models[0], atol=1e-12)
    assert same_bytes(run_op(dop, ALL, [base, base], base, each=[{}] * 2), base)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 2, 2, 2)])
@pytest.mark.parametrize(("alpha", "share", "ridge"), [(0.5, 1, 1e-6), (0.3, 0.6, 1e-2)])
def test_it_equals_the_equation_solved_as_a_whole(shape, alpha, share, ridge):
    models, base = random_models(shape, 3)
    first, *others = (delta.numpy() for delta in deltas_of(models, base))
    for other in others:
        first = by_kronecker(first, other, alpha, share, ridge)
    given = {**ALL, "alpha": alpha, "share": share, "ridge": ridge}
    wanted = base.double() + torch.from_numpy(first).reshape(shape)
    OpCase(dop, given, models=models, base=base, each=[{}] * 3, expected=wanted).check()


@pytest.mark.parametrize("share", [1, 0.5])
def test_no_step_from_the_result_lowers_the_loss(share):
    models, base = random_models((6, 7), 2, dtype=torch.float64)
    first, second = (delta.numpy() for delta in deltas_of(models, base))
    merged = (run_op(dop, {**TINY, "share": share}, models, base, each=[{}] * 2) - base).numpy()

    def total(X):
        return loss(X, first, share) + loss(X, second, share)

    assert total(merged) < min(total(X) for X in (first, second, (first + second) / 2, first + second))
    for other in (first, second):
        assert all(total(merged + step * (other - merged)) >= total(merged) for step in (0.01, -0.01))


def test_low_rank_deltas_come_out_finite_and_in_their_space():
    models, base = low_rank_models((9, 12), 2, rank=2)
    merged = run_op(dop, ALL, models, base, each=[{}] * 2) - base
    assert torch.linalg.matrix_rank(merged, rtol=1e-6) == 4


def test_order_matters():
    models, base = random_models((5, 4), 3)
    forth = run_op(dop, ALL, models, base, each=[{}] * 3)
    back = run_op(dop, ALL, models[::-1], base, each=[{}] * 3)
    assert not torch.allclose(forth, back, atol=1e-4)
    assert same_bytes(run_op(dop, ALL, {"z": models[0], "y": models[1], "x": models[2]}, base), forth)
