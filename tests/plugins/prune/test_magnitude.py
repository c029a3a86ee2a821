"""prune.magnitude against numbers by hand, a sort in float64, and itself cut into pieces."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery import RunOptions
from surgery.errors import OpError, PlanError, RecipeError
from surgery.ops import Scan
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery_prune.magnitude import MagnitudeOp

ALL = {"targets": "all"}


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_sorting(weights, share):
    """Keep what is at least as large as the k-th largest, k = n - ⌊s·n⌋; in float64."""
    kept = weights.numel() - math.floor(Fraction(repr(share)) * weights.numel())
    if kept == 0:
        return torch.zeros_like(weights)
    threshold = weights.double().abs().flatten().sort(descending=True).values[kept - 1]
    return torch.where(weights.double().abs() >= threshold, weights, 0)


@pytest.mark.parametrize(
    ("weights", "scope", "wanted"),
    [
        ([[1.0, -4.0], [3.0, 2.0]], "tensor", [[0, -4], [3, 0]]),
        ([[1.0, 2.0], [3.0, 4.0]], "tensor", [[0, 0], [3, 4]]),
        ([[1.0, 2.0], [3.0, 4.0]], "row", [[0, 2], [0, 4]]),
        ([[1.0, 2.0], [3.0, 4.0]], "model", [[0, 0], [3, 4]]),
    ],
)
def test_half_of_four(weights, scope, wanted):
    more = {} if scope == "row" else {"permutable": True}
    OpCase(
        MagnitudeOp,
        {**ALL, "scope": scope},
        models=[weights],
        expected=wanted,
        identity=[Identity({"sparsity": 0.0})],
        scale_equivariant=True,
        tolerance=0,
        **more,
    ).check()


def test_two_of_four_stay():
    OpCase(
        MagnitudeOp,
        {**ALL, "pattern": "2:4"},
        models=[[[0.5, -2.0, 1.0, 0.1, 4.0, 3.0, 2.0, 1.0]]],
        expected=[[0, -2, 1, 0, 4, 3, 0, 0]],
        scale_equivariant=True,
        tolerance=0,
    ).check()


def test_of_equal_neighbours_the_first_stay():
    OpCase(
        MagnitudeOp,
        {**ALL, "pattern": "2:4"},
        models=[[[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]]],
        expected=[[1, -1, 0, 0], [0, 0, 0, 2]],
        tolerance=0,
    ).check()


def test_of_equal_weights_of_a_row_the_first_stay():
    OpCase(
        MagnitudeOp,
        {**ALL, "scope": "row"},
        models=[[[1.0, -1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0]]],
        expected=[[1, -1, 0, 0], [3, 1, 0, 0]],
        tolerance=0,
    ).check()


def test_of_a_tensor_all_that_equal_the_threshold_stay():
    OpCase(
        MagnitudeOp,
        ALL,
        models=[[[2.0, -2.0], [2.0, 1.0]]],
        expected=[[2, -2], [2, 0]],
        tolerance=0,
    ).check()


def test_zeros_are_written_without_a_sign():
    for params in ({}, {"scope": "row"}, {"pattern": "1:2"}):
        pruned = run_op(MagnitudeOp, {**ALL, **params}, [torch.tensor([[-1.0, -2.0]])])
        assert same_bytes(pruned, torch.tensor([[0.0, -2.0]]))


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_everything_can_go(scope):
    OpCase(
        MagnitudeOp, {**ALL, "scope": scope, "sparsity": 1}, models=[noise(3, 4)], expected=torch.zeros(3, 4)
    ).check()


def test_a_share_is_the_decimal_that_was_written():
    """0.29 of 100 are 29 weights, although 0.29 · 100 is 28.999999999999996."""
    weights = torch.arange(1.0, 101.0).view(1, 100)
    for scope in ("tensor", "row"):
        pruned = run_op(MagnitudeOp, {**ALL, "sparsity": 0.29, "scope": scope}, [weights])
        assert int((pruned == 0).sum()) == 29


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    share=st.floats(0, 1).map(lambda s: round(s, 2)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_it_equals_sorting(rows, columns, share, dtype, seed):
    weights = noise(rows, columns, dtype=dtype, seed=seed)
    assert same_bytes(
        run_op(MagnitudeOp, {**ALL, "sparsity": share}, [weights], chunk=7), by_sorting(weights, share)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_that_needs_a_sample_first_equals_sorting(dtype):
    weights = noise(300, 400, dtype=dtype)
    for share in (0.01, 0.5, 0.99):
        assert same_bytes(
            run_op(MagnitudeOp, {**ALL, "sparsity": share}, [weights]), by_sorting(weights, share)
        )


@pytest.mark.parametrize("length", [3, 12, 13, 200])
def test_rows_keep_exactly_so_many(length):
    weights = noise(50, length, dtype=torch.bfloat16)
    pruned = run_op(MagnitudeOp, {**ALL, "scope": "row", "sparsity": 0.3}, [weights])
    assert set((pruned == 0).sum(1).tolist()) == {math.floor(0.3 * length)}
    for before, after in zip(weights.double(), pruned.double(), strict=True):
        assert after.abs()[after != 0].min() >= (before - after).abs().max()


@pytest.mark.parametrize("pattern", ["1:2", "2:4", "4:8", "3:20"])
def test_groups_keep_exactly_n(pattern):
    kept, size = map(int, pattern.split(":"))
    pruned = run_op(MagnitudeOp, {**ALL, "pattern": pattern}, [noise(40, 40, dtype=torch.bfloat16)])
    assert set((pruned.view(-1, size) != 0).sum(1).tolist()) == {kept}


def test_permuting_rows_permutes_what_a_row_or_a_pattern_keeps():
    for params in ({"scope": "row"}, {"pattern": "2:4"}):
        OpCase(MagnitudeOp, {**ALL, **params}, models=[noise(12, 8)], permutable=True).check()


def test_a_convolution_is_compared_by_filter():
    weights = noise(4, 3, 2, 2)
    pruned = run_op(MagnitudeOp, {**ALL, "scope": "row"}, [weights])
    assert (pruned.view(4, -1) == 0).sum(1).tolist() == [6] * 4


def test_one_threshold_for_a_model_takes_more_of_small_weights():
    model = {"a": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "b": torch.tensor([[10.0, 20.0, 30.0, 40.0]])}
    pruned = run_model_op(MagnitudeOp, {**ALL, "scope": "model", "max_sparsity": 1}, {"m": model})
    assert pruned["a"].tolist() == [[0, 0, 0, 0]]
    assert pruned["b"].tolist() == [[10, 20, 30, 40]]


def test_no_tensor_of_a_model_loses_more_than_the_cap():
    model = {"a": torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "b": torch.tensor([[10.0, 20.0, 30.0, 40.0]])}
    capped = run_model_op(MagnitudeOp, {**ALL, "scope": "model", "max_sparsity": 0.75}, {"m": model})
    assert capped["a"].tolist() == [[0, 0, 0, 4]]
    assert capped["b"].tolist() == [[10, 20, 30, 40]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caps_of_many_tensors_equal_sorting(dtype):
    model = {f"w{i}": (noise(30, 40, seed=i) * (i + 1)).to(dtype) for i in range(6)}
    pruned = run_model_op(
        MagnitudeOp, {**ALL, "scope": "model", "sparsity": 0.6, "max_sparsity": 0.7}, {"m": model}
    )
    together = torch.cat([tensor.flatten() for tensor in model.values()]).double().abs()
    threshold = together.sort(descending=True).values[7200 - 4320 - 1]
    capped = 0
    for name, weights in model.items():
        wanted = torch.where(weights.double().abs() >= threshold, weights, 0)
        if int((wanted == 0).sum()) > 840:
            wanted, capped = by_sorting(weights, 0.7), capped + 1
        assert same_bytes(pruned[name], wanted), name
    assert 0 < capped < 6


def test_model_scope_keeps_the_laws():
    OpCase(
        MagnitudeOp,
        {**ALL, "scope": "model", "sparsity": 0.4, "max_sparsity": 0.5},
        models=[noise(70, 11)],
        expected=by_sorting(noise(70, 11), 0.4),
        tolerance=0,
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize("cap", [1.0, 0.6])
def test_layer_scope_prunes_each_layer_as_a_model_of_its_own(run, tiny, cap):
    """Only Linears of the blocks are pruned; the cap holds for their tensors."""
    settings = {"scope": "layer", "sparsity": 0.4, "max_sparsity": cap}
    pruned = run({"p": {"op": "prune.magnitude", "model": "base", **settings}})
    layers = {name.split(".")[2] for name in tiny if ".layers." in name}
    assert len(layers) > 1
    for layer in layers:
        own = {n: t for n, t in tiny.items() if f".layers.{layer}." in n and t.dim() == 2}
        wanted = run_model_op(MagnitudeOp, {**ALL, **settings, "scope": "model"}, {"m": own})
        assert all(same_bytes(pruned[name], values) for name, values in wanted.items())
    whole = run({"p": {"op": "prune.magnitude", "model": "base", **settings, "scope": "model"}})
    assert any(not torch.equal(pruned[name], whole[name]) for name in whole)


def test_a_small_tensor_is_read_whole_and_a_large_one_sampled_first():
    from surgery.testing.runner import concrete, signature_of

    params = concrete(MagnitudeOp.params, ALL)
    implementation = MagnitudeOp.implementation
    small, large = (
        signature_of(MagnitudeOp, [torch.empty(shape)], None, ()) for shape in ((8, 8), (999, 99))
    )
    assert implementation.scan(small, params, None, 0) is Scan.ALL
    assert implementation.scan(large, params, None, 0) is Scan.SAMPLE


def test_only_linears_of_the_blocks_are_pruned(run, tiny):
    pruned = run({"p": {"op": "prune.magnitude", "model": "base"}})
    for name, weights in tiny.items():
        linear = "proj" in name
        assert ((pruned[name] == 0).float().mean() > 0.45) == linear, name
        if not linear:
            assert same_bytes(pruned[name], weights)


def test_where_and_all_reach_the_head(run, tiny):
    pruned = run({"p": {"op": "prune.magnitude", "model": "base", "where": "head", "targets": "all"}})
    assert [name for name in tiny if not same_bytes(pruned[name], tiny[name])] == ["lm_head.weight"]


def test_a_map_prunes_roles_differently(run, tiny):
    step = {
        "op": "prune.magnitude",
        "model": "base",
        "scope": "row",
        "sparsity": {"mlp": 0.75, "default": 0.25},
    }
    pruned = run({"p": step})
    share = {name: float((weights == 0).double().mean()) for name, weights in pruned.items()}
    assert share["model.layers.0.mlp.up_proj.weight"] == 0.75
    assert share["model.layers.1.self_attn.q_proj.weight"] == 0.25


@pytest.mark.parametrize(
    "params", [{}, {"scope": "row"}, {"pattern": "2:4"}, {"scope": "model", "max_sparsity": 0.51}], ids=str
)
def test_threads_do_not_change_a_byte(run, params):
    steps = {"p": {"op": "prune.magnitude", "model": "base", **params}}
    first = run(steps, RunOptions(device="cpu", threads=1, force=True))
    second = run(steps, RunOptions(device="cpu", threads=3, force=True))
    assert all(same_bytes(first[name], second[name]) for name in first)


def test_pruning_what_is_pruned_changes_nothing(run):
    prune = {"op": "prune.magnitude", "pattern": "2:4"}
    once = run({"p": {**prune, "model": "base"}})
    twice = run({"p": {**prune, "model": "base"}, "q": {**prune, "model": "p"}})
    assert all(same_bytes(once[name], twice[name]) for name in once)


def test_a_plan_says_that_nothing_gets_smaller(recipe):
    plan = recipe({"p": {"op": "prune.magnitude", "model": "base"}}).resolve().plan
    assert [finding.what for finding in plan.warnings] == [
        "pruned weights are written as zeros in full size: no file gets smaller and no model faster by itself"
    ]


def test_inputs_that_do_not_divide_are_told_before_the_run(recipe):
    with pytest.raises(PlanError) as error:
        recipe({"p": {"op": "prune.magnitude", "model": "base", "pattern": "2:5"}}).resolve()
    assert str(error.value) == (
        "<recipe>:6:5: steps.p: model.layers.0.mlp.down_proj.weight: 32 inputs do not divide into groups of 5 "
        "(and 13 more such tensors); leave the tensor out with `where:`"
    )


def test_a_pattern_needs_matrices():
    with pytest.raises(
        OpError, match=r"^w: pattern 2:4 needs matrices, got \(4, 4, 2, 2\); leave the tensor "
    ):
        run_op(MagnitudeOp, {**ALL, "pattern": "2:4"}, [noise(4, 4, 2, 2)])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sparsity": 0.5, "pattern": "2:4"}, "both `sparsity` and `pattern`; keep one"),
        ({"pattern": "5:4"}, "must be N:M with N weights kept of every M, such as `2:4`, got `5:4`"),
        (
            {"pattern": "2:4", "scope": "model"},
            "`pattern` compares neighbours, `scope: model` weights of several tensors; keep one",
        ),
        (
            {"max_sparsity": 0.9},
            "`max_sparsity` belongs to `scope: layer` and `model`, got `scope: tensor`; remove it",
        ),
        (
            {"scope": "model", "sparsity": 0.96},
            "`sparsity` 0.96 is above `max_sparsity` 0.95; raise the latter",
        ),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_are_told(recipe, params, message):
    with pytest.raises(RecipeError) as error:
        recipe({"p": {"op": "prune.magnitude", "model": "base", **params}}).resolve()
    assert message in str(error.value)
