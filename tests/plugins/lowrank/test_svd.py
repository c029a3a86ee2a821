"""lowrank.svd against numbers by hand, numpy in float64, and itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery import RunOptions
from surgery.errors import OpError, RecipeError
from surgery.tensors import Role
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_lowrank.svd import svd

ALL = {"targets": "all", "only_if_smaller": False}
DIAGONAL = torch.diag(torch.tensor([3.0, 2.0, 1.0]))


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_numpy(W, rank):
    U, S, Vh = np.linalg.svd(W.double().numpy().reshape(len(W), -1), full_matrices=False)
    return torch.from_numpy(((U[:, :rank] * S[:rank]) @ Vh[:rank]).reshape(W.shape))


@pytest.mark.parametrize("kept", [{"rank": 2}, {"energy": 13 / 14}, {"ratio": 1.0, "rank": None}], ids=str)
def test_the_smallest_of_3_2_1_goes(kept):
    wanted = torch.diag(torch.tensor([3.0, 2.0, 0.0]))
    if "ratio" in kept:  # ⌊9/6⌋ = 1
        wanted = torch.diag(torch.tensor([3.0, 0.0, 0.0]))
    given = {key: value for key, value in kept.items() if value is not None}
    OpCase(svd, {**ALL, **given}, models=[DIAGONAL], expected=wanted).check()
    if "rank" in given:
        assert (run_op(svd, {**ALL, **given}, [DIAGONAL]) - DIAGONAL).norm() == 1


def test_the_full_rank_is_the_matrix_itself():
    OpCase(
        svd,
        {**ALL, "rank": 1},
        models=[noise(4, 3)],
        identity=[Identity({"rank": 3}), Identity({"rank": 7}), Identity({"rank": None, "energy": 1})],
    ).check()


def test_a_rank_that_saves_nothing_leaves_the_matrix():
    """Factors of 4 × 4: rank 1 holds 8 numbers, rank 2 as many as the matrix."""
    W = noise(4, 4)
    given = {"targets": "all"}
    assert same_bytes(run_op(svd, {**given, "rank": 2}, [W]), W)
    assert not same_bytes(run_op(svd, {**given, "rank": 1}, [W]), W)
    assert same_bytes(run_op(svd, {**given, "energy": 0.9999}, [W]), W)


@pytest.mark.parametrize(
    ("params", "noted"),
    [
        ({"rank": 2}, {"rank": 2, "energy": 13 / 14}),
        ({"energy": 0.6}, {"rank": 1, "energy": 9 / 14}),
        ({"energy": 0.99}, {"rank": 3, "energy": 1.0}),
        ({"energy": 0.6, "only_if_smaller": True}, {"rank": 1, "energy": 9 / 14}),
        ({"energy": 0.9, "only_if_smaller": True}, {"rank": 3, "energy": 1.0}),
    ],
    ids=str,
)
def test_what_a_rank_keeps_is_noted_all_where_the_matrix_is_left(params, noted):
    """Factors of 3 x 3 with rank 2 hold 12 numbers, the matrix 9."""
    notes = {}
    run_op(svd, {**ALL, **params}, [DIAGONAL], notes=notes)
    assert notes == pytest.approx(noted, rel=1e-12)


def test_of_a_stack_the_highest_rank_and_the_share_of_all_are_noted():
    stack = torch.stack([DIAGONAL, torch.diag(torch.tensor([1.0, 0.0, 0.0]))])
    notes = {}
    role = Role("experts.down", 0)
    run_op(svd, {**ALL, "energy": 0.9}, [stack], role=role, name="m.experts.down_proj", notes=notes)
    assert notes == pytest.approx({"rank": 2, "energy": 14 / 15}, rel=1e-12)


def test_the_randomized_method_notes_what_it_keeps():
    W, notes = noise(90, 60), {}
    low = run_op(svd, {**ALL, "rank": 12, "method": "randomized"}, [W], notes=notes)
    lost = (W - low).double().square().sum() / W.double().square().sum()
    assert notes == {"rank": 12, "energy": pytest.approx(1 - float(lost), rel=1e-5)}


def test_a_zero_matrix_stays_zero():
    for given in ({"rank": 1}, {"energy": 0.5}):
        assert same_bytes(run_op(svd, {**ALL, **given}, [torch.zeros(4, 5)]), torch.zeros(4, 5))


def test_a_vector_is_copied():
    assert same_bytes(run_op(svd, {**ALL, "rank": 1}, [noise(7)]), noise(7))


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 3, 3)])
@pytest.mark.parametrize("method", ["auto", "exact"])
def test_it_equals_numpy(shape, method):
    W = noise(*shape)
    OpCase(
        svd,
        {**ALL, "rank": 4, "method": method},
        models=[W],
        expected=by_numpy(W, 4),
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_result_is_rounded_once(dtype):
    W = noise(20, 30, dtype=dtype)
    low = run_op(svd, {**ALL, "rank": 4}, [W])
    assert low.dtype == dtype
    assert torch.allclose(low.double(), by_numpy(W, 4), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_energy_keeps_the_smallest_rank_that_reaches_it():
    W = noise(20, 30)
    squares = np.linalg.svd(W.double().numpy(), compute_uv=False) ** 2
    rank = int(np.searchsorted(np.cumsum(squares) / squares.sum(), 0.7)) + 1
    low = run_op(svd, {**ALL, "energy": 0.7}, [W])
    assert torch.linalg.matrix_rank(low.double(), rtol=1e-5) == rank
    assert torch.allclose(low.double(), by_numpy(W, rank), atol=1e-6)
    assert low.square().sum() >= 0.7 * W.square().sum()


def test_reducing_what_is_reduced_changes_nothing_but_rounding():
    once = run_op(svd, {**ALL, "rank": 5}, [noise(20, 30)])
    OpCase(svd, {**ALL, "rank": 5}, models=[once], expected=once).check()


@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
def test_the_randomized_method_is_nearly_as_near(shape):
    W = noise(*shape)
    case = OpCase(svd, {**ALL, "rank": 12, "method": "randomized"}, models=[W], scale_equivariant=True)
    case.check()
    best = (by_numpy(W, 12) - W).norm()
    error = (run_op(svd, case.params, [W]) - W).norm()
    assert best * (1 - 1e-6) <= error <= 1.03 * best


def test_the_randomized_result_depends_on_the_name_and_not_on_the_seed():
    W, params = noise(90, 60), {**ALL, "rank": 5, "method": "randomized"}
    assert same_bytes(run_op(svd, params, [W], seed=1), run_op(svd, params, [W], seed=2))
    assert not same_bytes(run_op(svd, params, [W], name="a"), run_op(svd, params, [W], name="b"))


def test_experts_of_a_stack_are_matrices_of_their_own(run):
    name = "model.layers.0.mlp.experts.down_proj"
    stack = noise(3, 12, 10)
    low = run({"l": {"op": "lowrank.svd", "model": "moe", "rank": 2}}, moe={name: stack})[name]
    for before, after in zip(stack, low, strict=True):
        assert torch.allclose(after.double(), by_numpy(before, 2), atol=1e-6)


def test_only_linears_of_the_blocks_are_changed(run, tiny):
    low = run({"l": {"op": "lowrank.svd", "model": "base", "rank": 4}})
    for name, weights in tiny.items():
        assert same_bytes(low[name], weights) == ("proj" not in name), name


def test_ranks_may_differ_by_role(run, tiny):
    low = run({"l": {"op": "lowrank.svd", "model": "base", "rank": {"mlp": 3, "default": 5}}})
    for name, rank in (("mlp.up_proj", 3), ("self_attn.o_proj", 5)):
        name = f"model.layers.1.{name}.weight"
        assert torch.allclose(low[name].double(), by_numpy(tiny[name], rank), atol=1e-3)
        assert not torch.allclose(low[name].double(), by_numpy(tiny[name], rank - 1), atol=1e-3)


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_threads_do_not_change_a_byte(run, method):
    steps = {"l": {"op": "lowrank.svd", "model": "base", "rank": 4, "method": method}}
    first = run(steps, RunOptions(device="cpu", threads=1, force=True))
    second = run(steps, RunOptions(device="cpu", threads=3, force=True))
    assert all(same_bytes(first[name], second[name]) for name in first)


def test_a_plan_counts_the_decomposition_into_its_memory(recipe):
    """8 · (W, its copy, U, Vh, LAPACK's squares) for 2,000 × 600, and the product."""
    big = {"model.layers.0.mlp.up_proj.weight": torch.zeros(2000, 600)}
    made = recipe({"l": {"op": "lowrank.svd", "model": "m", "rank": 10}}, m=big).resolve().order()
    assert made.jobs[0].held >= 8 * (2000 * 600 * 4 + 600 * 600 * 4)


def test_a_plan_says_that_nothing_gets_smaller(recipe):
    plan = recipe({"l": {"op": "lowrank.svd", "model": "base", "rank": 4}}).resolve().plan
    assert [finding.what for finding in plan.warnings] == [
        "what a rank leaves is written as dense weights: no file gets smaller and no model faster by itself"
    ]


def test_half_a_rank_is_told():
    with pytest.raises(OpError) as error:
        run_op(svd, {**ALL, "rank": 2.5}, [DIAGONAL])
    assert str(error.value) == (
        "w: rank must be a whole number, got 2.5; write one, or `ratio` where a ramp is wanted"
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "needs one of `rank`, `ratio` and `energy`, got none"),
        ({"rank": 3, "energy": 0.5}, "needs one of `rank`, `ratio` and `energy`, got `rank` and `energy`"),
        (
            {"energy": 0.5, "method": "randomized"},
            "`energy` needs all singular values, `method: randomized` finds a few; use `exact`",
        ),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_are_told(recipe, params, message):
    with pytest.raises(RecipeError) as error:
        recipe({"l": {"op": "lowrank.svd", "model": "base", **params}}).resolve()
    assert message in str(error.value)
