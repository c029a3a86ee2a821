"""prune.mask and prune.apply_mask: what one stores the other applies."""

from __future__ import annotations

import json

import pytest
import torch

from surgery.errors import OpError, PlanError
from surgery.testing import OpCase, run_op, same_bytes
from surgery_prune.apply_mask import apply_mask
from surgery_prune.magnitude import MagnitudeOp
from surgery_prune.mask import MaskOp

UP = "model.layers.0.mlp.up_proj.weight"


def test_a_mask_is_true_where_the_weight_stays():
    OpCase(
        MaskOp,
        {"targets": "all"},
        models=[[[1.0, -4.0], [3.0, 2.0]]],
        expected=[[False, True], [True, False]],
    ).check()


@pytest.mark.parametrize("params", [{}, {"scope": "row"}, {"pattern": "2:4"}, {"scope": "model"}], ids=str)
def test_a_mask_is_where_pruned_weights_are_not_zero(params):
    weights = torch.randn(30, 40, generator=torch.Generator().manual_seed(0))
    mask = run_op(MaskOp, {"targets": "all", **params}, [weights])
    assert mask.dtype == torch.bool
    assert torch.equal(mask, run_op(MagnitudeOp, {"targets": "all", **params}, [weights]) != 0)


def test_applying_is_multiplying():
    OpCase(
        apply_mask,
        models=[torch.tensor([[True, False], [False, True]])],
        base=[[-1.0, -2.0], [3.0, 4.0]],
        expected=[[-1, 0], [0, 4]],
        tolerance=0,
        permutable=True,
    ).check()


def test_zeros_have_no_sign_and_applying_twice_is_once():
    mask = torch.tensor([True, False])
    once = run_op(apply_mask, {}, [mask], torch.tensor([-1.0, -2.0]))
    assert same_bytes(once, torch.tensor([-1.0, 0.0]))
    assert same_bytes(run_op(apply_mask, {}, [mask], once), once)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_weights(dtype):
    weights = torch.randn(4, 4).to(dtype)
    assert same_bytes(run_op(apply_mask, {}, [torch.ones(4, 4, dtype=torch.bool)], weights), weights)


def test_numbers_between_0_and_1_are_no_mask():
    with pytest.raises(OpError, match=r"^w: a mask holds 0 and 1, got 0.5; make it with prune.mask$"):
        run_op(apply_mask, {}, [torch.tensor([1.0, 0.5])], torch.tensor([1.0, 2.0]))


def test_a_stored_mask_applied_gives_the_pruned_model(run, tmp_path):
    prune = {"op": "prune.magnitude", "model": "base", "sparsity": 0.6}
    pruned = run({"p": prune})
    masks = run({"m": {**prune, "op": "prune.mask"}})
    again = run({"a": {"op": "prune.apply_mask", "base": "base", "model": "kept"}}, kept=masks)
    assert list(again) == list(pruned)
    assert all(same_bytes(again[name], pruned[name]) for name in pruned)


def test_a_mask_feeds_the_next_step_without_a_file(run):
    prune = {"model": "base", "pattern": "2:4"}
    pruned = run({"p": {**prune, "op": "prune.magnitude"}})
    applied = run(
        {"m": {**prune, "op": "prune.mask"}, "a": {"op": "prune.apply_mask", "base": "base", "model": "m"}}
    )
    assert all(same_bytes(applied[name], pruned[name]) for name in pruned)


def test_a_mask_holds_nothing_but_masks(run, tiny, tmp_path):
    masks = run({"m": {"op": "prune.mask", "model": "base", "where": "mlp"}})
    assert set(masks) == {name for name in tiny if "mlp" in name}
    assert {mask.dtype for mask in masks.values()} == {torch.bool}
    assert not (tmp_path / "out" / "config.json").exists()
    assert json.loads((tmp_path / "out" / "mask.json").read_text()) == {"mask_of": "llama"}


def test_integers_are_no_masks_either(run, tiny):
    counted = {**tiny, "model.layers.0.steps": torch.arange(3)}
    assert "model.layers.0.steps" not in run({"m": {"op": "prune.mask", "model": "b"}}, b=counted)


def refused(recipe, steps, **models) -> str:
    with pytest.raises(PlanError) as error:
        recipe(steps, **models).resolve()
    return str(error.value)


def test_a_mask_of_another_shape_is_told_before_the_run(recipe):
    steps = {"a": {"op": "prune.apply_mask", "base": "base", "model": "m"}}
    message = refused(recipe, steps, m={UP: torch.ones(4, 4, dtype=torch.bool)})
    assert f"`base` and `m` differ at {UP}: (32, 32) and (4, 4)" in message


def test_a_mask_of_another_model_is_told_before_the_run(recipe):
    steps = {"a": {"op": "prune.apply_mask", "base": "base", "model": "m"}}
    assert refused(recipe, steps, m={"other": torch.ones(4, 4, dtype=torch.bool)}) == (
        "<recipe>:7:5: steps.a: `m` has other, which the base lacks; it was made for another model"
    )


def test_weights_are_not_taken_for_a_mask_nor_a_mask_for_weights(recipe, tiny):
    steps = {"a": {"op": "prune.apply_mask", "base": "base", "model": "m"}}
    assert "`prune.apply_mask` takes masks, `m` holds weights" in refused(recipe, steps, m=tiny)
    steps = {"a": {"op": "prune.magnitude", "model": "m"}}
    message = refused(recipe, steps, m={UP: torch.ones(4, 4, dtype=torch.bool)})
    assert "`prune.magnitude` takes weights, `m` holds masks" in message
