"""A core and factors: numbers by hand, the errors that theory allows, and the round trip in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_emitting_op
from surgery_delta.tucker import Tucker, parts, ranks, tucker
from tests.plugins.delta.conftest import UP, applied, back, normal, read, stored

WIDE = {"dtype": "float32", "targets": "all"}


def energy(model: torch.Tensor, **params: object) -> float:
    notes: dict[str, float] = {}
    base = torch.zeros_like(model)
    run_emitting_op(tucker, {**WIDE, **params}, [model], base, name="w", role=UP, notes=notes)
    return notes["energy"]


def test_of_a_diagonal_the_largest_are_kept():
    """3, 2, 1 in two ranks: an error of 1, 13 of 14 of the squares."""
    made = stored(tucker, torch.diag(torch.tensor([3.0, 2, 1])), rank=2, **WIDE)
    assert made["core"].tolist() == [[3, 0], [0, 2]]
    assert made["factor0"].tolist() == made["factor1"].tolist() == [[1, 0], [0, 1], [0, 0]]
    again = back(tucker, torch.diag(torch.tensor([3.0, 2, 1])), rank=2, **WIDE)
    assert again.tolist() == [[3, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert energy(torch.diag(torch.tensor([3.0, 2, 1])), rank=2) == pytest.approx(13 / 14, rel=1e-12)


def test_an_outer_product_is_three_vectors_and_a_number():
    """[3, 4] of length 5, [0, 2] and [1, 0, 0]: a core of 10, and 5 of 12 numbers more."""
    model = torch.einsum(
        "i,j,k->ijk", torch.tensor([3.0, 4]), torch.tensor([0.0, 2]), torch.tensor([1.0, 0, 0])
    )
    made = stored(tucker, model, rank=1, **WIDE)
    assert abs(float(made["core"])) == pytest.approx(10)
    assert made["factor0"].flatten().tolist() == pytest.approx([0.6, 0.8])
    assert [made[f"factor{mode}"].abs().flatten().tolist() for mode in (1, 2)] == [[0, 1], [1, 0, 0]]
    torch.testing.assert_close(back(tucker, model, rank=1, **WIDE), model)


def test_a_dimension_of_full_rank_has_no_factor():
    """A convolution's window is smaller than the rank."""
    made = stored(tucker, normal(20, 18, 3, 3), rank=5, targets="all")
    shapes = {name: tuple(value.shape) for name, value in made.items() if name != "base"}
    assert shapes == {"core": (5, 5, 3, 3), "factor0": (20, 5), "factor1": (18, 5)}
    assert made["core"].dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "asked", "core"),
    [
        ((4, 100), 16, (4, 4)),
        ((40, 50), [8, 16], (8, 8)),
        ((2, 100, 3), 16, (2, 6, 3)),
        ((9, 9, 9), [2, 3, 9], (2, 3, 6)),
        ((5, 1), 3, (1, 1)),
    ],
)
def test_no_rank_is_larger_than_an_unfolding_can_have(shape, asked, core):
    assert ranks(shape, Tucker(rank=asked)) == core


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5), (3, 2, 2, 4)])
def test_full_ranks_are_exact(shape):
    base, model = normal(*shape, seed=1), normal(*shape, seed=2)
    torch.testing.assert_close(back(tucker, model, base, rank=100, **WIDE), model)
    torch.testing.assert_close(back(tucker, model, base, rank=[*shape], **WIDE), model)


def _reference(X: np.ndarray, core: tuple[int, ...], sweeps: int) -> np.ndarray:
    """Return the approximation by Gram matrices' eigenvectors and projections, another way to the same."""

    def leading(T: np.ndarray, mode: int) -> np.ndarray:
        other = [axis for axis in range(T.ndim) if axis != mode]
        return np.linalg.eigh(np.tensordot(T, T, (other, other)))[1][:, ::-1][:, : core[mode]]

    def projected(T: np.ndarray, Ps: dict[int, np.ndarray]) -> np.ndarray:
        for mode, P in Ps.items():
            T = np.moveaxis(np.tensordot(P, T, (1, mode)), 0, mode)
        return T

    P: dict[int, np.ndarray] = {}
    for mode in range(X.ndim):
        A = leading(projected(X, P), mode)
        P[mode] = A @ A.T
    for _ in range(sweeps):
        for mode in range(X.ndim):
            A = leading(projected(X, {m: Q for m, Q in P.items() if m != mode}), mode)
            P[mode] = A @ A.T
    return projected(X, P)


@given(st.lists(st.integers(2, 7), min_size=2, max_size=4), st.integers(0, 3), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_it_is_orthogonal_iteration_in_float64(shape, sweeps, seed):
    base, model = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    delta = (model - base).double().numpy()
    core = ranks(shape, Tucker(rank=2))
    expected = base.double() + torch.from_numpy(_reference(delta, core, sweeps))
    found = back(tucker, model, base, rank=2, sweeps=sweeps, **WIDE).double()
    assert float((found - expected).norm()) <= 1e-6 * float(model.double().norm() + base.double().norm())


def test_of_a_matrix_the_error_is_that_of_its_singular_values():
    model = normal(30, 50)
    dropped = torch.linalg.svdvals(model.double())[7:].square().sum() / model.double().square().sum()
    assert energy(model, rank=7) == pytest.approx(1 - float(dropped), rel=1e-6)


def test_sweeps_never_add_to_the_error_and_the_first_is_within_its_bound():
    """The best of every unfolding is no worse than the best of all; the error is at most the root of their sum."""
    model = normal(9, 10, 11)
    found = [energy(model, rank=3, sweeps=sweeps) for sweeps in (0, 1, 2, 5, 20)]
    assert found == sorted(found)
    assert found[-1] > found[0]
    tails = [
        float(torch.linalg.svdvals(model.double().movedim(mode, 0).flatten(1))[3:].square().sum())
        for mode in range(3)
    ]
    whole = float(model.double().square().sum())
    assert max(tails) <= (1 - found[-1]) * whole <= (1 - found[0]) * whole <= math.fsum(tails)


def test_experts_in_one_tensor_share_core_and_factors():
    role = Role("experts.up", layer=0)
    model = torch.einsum("e,rc->erc", torch.tensor([1.0, -2, 3]), normal(8, 9))
    made = stored(tucker, model, role=role, rank=[1, 8, 8], **WIDE)
    assert made["core"].shape == (1, 8, 8)
    torch.testing.assert_close(back(tucker, model, role=role, rank=[1, 8, 8], **WIDE), model)
    torch.testing.assert_close(
        back(tucker, model, role=role, rank=[3, 8, 9], **WIDE), model
    )  # rows without a factor


def test_a_change_of_nothing_is_zero_and_has_no_energy():
    assert back(tucker, torch.ones(4, 5), torch.ones(4, 5), rank=2).tolist() == [[1] * 5] * 4
    notes: dict[str, float] = {}
    run_emitting_op(tucker, {}, [torch.ones(4, 5)], torch.ones(4, 5), name="w", role=UP, notes=notes)
    assert notes == {}


def test_sixteen_bits_add_no_more_than_their_rounding():
    model = normal(40, 30)
    wide, short = back(tucker, model, rank=8, **WIDE), back(tucker, model, rank=8)
    assert 0 < float((wide - short).norm() / wide.norm()) < 3 * 2**-9


def test_a_list_has_a_number_for_each_dimension():
    spec = TensorSpec("w", (4, 3, 2, 2), "BF16")
    signature = Signature("w", (spec,), spec, (), UP, spec.numel)
    assert tucker.check is not None
    assert tucker.check(Signature("w", (spec,), spec, (), Role("norm"), 48), Tucker(rank=[2, 2])) is None
    assert tucker.check(signature, Tucker(rank=[2, 2], targets="all")) == (
        "`rank` has 2 numbers for the 4 dimensions of (4, 3, 2, 2); "
        "give one number for all, or leave it out with `where:`"
    )
    assert tucker.check(signature, Tucker(rank=[2, 2, 2, 2], targets="all")) is None


def test_what_is_stored_is_small():
    spec = TensorSpec("w", (4096, 4096), "BF16")
    sizes = {
        part.spec.name: part.spec.nbytes
        for part in parts(Signature("w", (spec,), spec, (), UP, spec.numel), Tucker())
    }
    thin = 2 * 4096 * 16
    assert sizes == {"w.core": 2 * 16 * 16, "w.factor0": thin, "w.factor1": thin, "w.base": 4 * 4096 // 16}


def test_what_is_decoded_for_all_blocks_is_declared():
    made = stored(tucker, normal(9, 8, 7), rank=2, targets="all")
    checkpoint = applied(tucker, made, torch.zeros(9, 8, 7), rank=2)
    assert checkpoint.whole_file_bytes() == 8 * (8 + 16 + 14)
    read(checkpoint)
