"""Sums of Kronecker products: numbers by hand, the errors that singular values say, and torch's own products."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_emitting_op
from surgery_delta.kronecker import Kronecker, kronecker, parts
from tests.plugins.delta.conftest import UP, applied, back, normal, stored

WIDE = {"dtype": "float32"}
STACK = Role("experts.up", layer=0)


def energy(model: torch.Tensor, **params: object) -> float:
    notes: dict[str, float] = {}
    base = torch.zeros_like(model)
    run_emitting_op(kronecker, {**WIDE, **params}, [model], base, name="w", role=UP, notes=notes)
    return notes["energy"]


def summed(made: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of torch's products of what is stored, in float64."""
    right = made["right"] if "right" in made else torch.einsum("mkr,krn->mkn", made["tall"], made["wide"])
    pairs = zip(made["left"].double(), right.double().transpose(0, 1), strict=True)
    return sum(torch.kron(A, B) for A, B in pairs)


def test_a_block_diagonal_is_one_product():
    """I ⊗ [[1, 2], [3, 4]]: σ = √2·√30, each side has length √σ; A is σ^½/√2 on its diagonal."""
    B = torch.tensor([[1.0, 2], [3, 4]])
    model = torch.kron(torch.eye(2), B)
    made = stored(kronecker, model, blocks=2, terms=1, **WIDE)
    side = (60**0.5 / 2) ** 0.5
    torch.testing.assert_close(made["left"], side * torch.eye(2)[None], atol=1e-6, rtol=1e-6)
    scale = 1 / side
    torch.testing.assert_close(made["right"], scale * B[:, None], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(back(kronecker, model, blocks=2, terms=1, **WIDE), model)


def test_the_nearest_product_of_two_is_found_by_hand():
    """Blocks [[3, 0]], [[0, 1]]: as rows they are diag(3, 1); the best of one term keeps 9 of 10 of the squares."""
    model = torch.tensor([[3.0, 0], [0, 1]])
    params = {"blocks": [2, 1], "terms": 1}
    torch.testing.assert_close(back(kronecker, model, **params, **WIDE), torch.tensor([[3.0, 0], [0, 0]]))
    assert energy(model, **params) == pytest.approx(0.9)


def test_as_many_terms_as_blocks_are_exact():
    base, model = normal(8, 12, seed=1), normal(8, 12, seed=2)
    torch.testing.assert_close(back(kronecker, model, base, blocks=[2, 3], terms=6, **WIDE), model)
    few = stored(kronecker, model, base, blocks=[2, 3], terms=100, **WIDE)
    assert few["left"].shape == (6, 2, 3)
    torch.testing.assert_close(back(kronecker, model, base, blocks=[2, 3], terms=6, rank=99, **WIDE), model)


def test_the_error_is_that_of_the_dropped_singular_values():
    model = normal(12, 20)
    rows = model.double().view(4, 3, 4, 5).transpose(1, 2).reshape(16, 15)
    S = torch.linalg.svdvals(rows).square()
    assert energy(model, terms=5) == pytest.approx(float(S[:5].sum() / S.sum()), rel=1e-6)
    error = (back(kronecker, model, terms=5, **WIDE) - model).double().square().sum()
    assert float(error) == pytest.approx(float(S[5:].sum()), rel=1e-5)


def test_of_factored_matrices_the_errors_add_up():
    """Of each B what its own singular values say is dropped, on top of the terms that are."""
    model = normal(12, 20)
    _, S, Vh = torch.linalg.svd(model.double().view(4, 3, 4, 5).transpose(1, 2).reshape(16, 15))
    thin = torch.linalg.svdvals(Vh[:5].view(5, 3, 5)).square()
    expected = float((S[:5].square() * thin[:, :2].sum(1)).sum() / S.square().sum())
    assert energy(model, terms=5, rank=2) == pytest.approx(expected, rel=1e-6)
    error = (back(kronecker, model, terms=5, rank=2, **WIDE) - model).double().square().sum()
    assert float(error) == pytest.approx((1 - expected) * float(S.square().sum()), rel=1e-5)


def test_for_these_left_sides_no_other_right_sides_are_nearer():
    model = normal(8, 8)
    made = stored(kronecker, model, blocks=2, terms=2, rank=1, **WIDE)
    best = float((summed(made) - model).norm())
    for seed in range(20):
        other = dict(made)
        other["tall"] = made["tall"] + 0.05 * normal(*made["tall"].shape, seed=seed)
        other["wide"] = made["wide"] + 0.05 * normal(*made["wide"].shape, seed=seed + 99)
        assert float((summed(other) - model).norm()) > best


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(1, 5),
    st.none() | st.integers(1, 3),
    st.integers(0, 10**6),
)
@settings(max_examples=50, deadline=None)
def test_the_round_trip_is_torchs_product(grid, inner, terms, rank, seed):
    shape = (grid[0] * inner[0], grid[1] * inner[1])
    base, model = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    params = {"blocks": [*grid], "terms": terms, "rank": rank, **WIDE}
    expected = base.double() + summed(stored(kronecker, model, base, **params))
    found = back(kronecker, model, base, **params).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("rank", [None, 2])
def test_blocks_of_rows_that_begin_inside_of_a_block_are_the_same(rank):
    """Rows are read by 65,536 elements: here 3 at a time, of blocks of 5."""
    model = normal(10, 20000)
    params = {"blocks": [2, 4], "terms": 3, "rank": rank, **WIDE}
    expected = summed(stored(kronecker, model, **params))
    torch.testing.assert_close(back(kronecker, model, **params).double(), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("rank", [None, 1])
def test_experts_in_one_tensor_have_products_of_their_own(rank):
    model = torch.stack(
        [torch.kron(normal(2, 2, seed=i), normal(3, 1, seed=i) @ normal(1, 2)) for i in (5, 6, 7)]
    )
    params = {"blocks": 2, "terms": 1, "rank": rank, **WIDE}
    assert stored(kronecker, model, role=STACK, **params)["left"].shape == (3, 1, 2, 2)
    torch.testing.assert_close(back(kronecker, model, role=STACK, **params), model)


def test_a_convolution_is_out_by_all_else():
    model = normal(4, 2, 3, 3)
    params = {"blocks": [2, 3], "terms": 6, "targets": "all", **WIDE}
    torch.testing.assert_close(back(kronecker, model, **params), model)


def test_blocks_that_do_not_divide_a_matrix_are_refused_before_work():
    spec = TensorSpec("w", (10, 7), "BF16")
    signature = Signature("w", (spec,), spec, (), UP, spec.numel)
    assert kronecker.check is not None
    assert kronecker.check(signature, Kronecker(blocks=[5, 7])) is None
    assert kronecker.check(Signature("w", (spec,), spec, (), Role("norm"), 70), Kronecker()) is None
    assert kronecker.check(signature, Kronecker()) == (
        "a matrix of 10 × 7 has no 4 × 4 equal blocks; choose `blocks` that divide it, or leave it out with `where:`"
    )


def test_a_change_of_nothing_is_zero():
    assert back(kronecker, torch.ones(4, 4), torch.ones(4, 4), rank=1).tolist() == [[1] * 4] * 4


def test_what_is_stored_is_a_share_of_the_matrix():
    """Four terms of 4 × 4 blocks: a quarter; with rank 8 a hundredth."""
    spec = TensorSpec("w", (4096, 4096), "BF16")
    signature = Signature("w", (spec,), spec, (), UP, spec.numel)

    def numbers(**params: object) -> dict[str, int]:
        return {part.spec.name: part.spec.numel for part in parts(signature, Kronecker(**params))}

    assert numbers() == {"w.right": 4096 * 1024, "w.left": 64, "w.base": 256}
    assert numbers(rank=8) == {"w.tall": 32768, "w.wide": 32768, "w.left": 64, "w.base": 256}


def test_what_is_decoded_for_all_blocks_is_declared():
    made = stored(kronecker, normal(8, 8), rank=1, **WIDE)
    checkpoint = applied(kronecker, made, torch.zeros(8, 8), rank=1, **WIDE)
    assert checkpoint.whole_file_bytes() == 8 * (64 + 8)
