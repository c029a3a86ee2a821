"""merge.metagpt: shares of squared norms, over a model, a layer or a tensor."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Split
from surgery.tensors import Role
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge.metagpt import MetagptOp

SCOPES = pytest.mark.parametrize("scope", ["tensor", "layer", "model"])


@SCOPES
def test_squared_norms_of_one_and_three_give_a_quarter_and_three_quarters(scope):
    OpCase(
        MetagptOp,
        {"scope": scope},
        models=[[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
        base=[0.0, 0.0, 0.0],
        expected=[1.0, 0.75, 0.75],
        tolerance=0,
        identity=[Identity({"lambda": 0}, gives=BASE)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_lambda_scales_the_sum():
    OpCase(MetagptOp, {"lambda": 0.5}, models=[[3.0], [1.0]], base=[1.0], expected=[2.0]).check()


def test_an_only_model_is_copied():
    OpCase(MetagptOp, models=[[0.3]], base=[0.1], identity=[Identity(gives=0)]).check()


@SCOPES
def test_where_nothing_changed_the_base_stays(scope):
    base = torch.tensor([0.1, -0.0, 7.0])
    merged = run_op(MetagptOp, {"scope": scope}, [base.clone(), base.clone()], base)
    assert same_bytes(merged, base)


def two_models(sizes):
    generator = torch.Generator().manual_seed(0)
    names = [f"t{index}" for index in range(len(sizes))]
    base = {name: torch.randn(size, generator=generator) for name, size in zip(names, sizes, strict=True)}
    grown = {
        model: {
            name: base[name] + scale * (index + 1) * torch.randn(len(base[name]), generator=generator)
            for index, name in enumerate(names)
        }
        for model, scale in (("a", 0.01), ("b", 0.03), ("c", 0.02))
    }
    return grown, base


def test_shares_are_those_of_the_whole_model_in_float64():
    models, base = two_models((140_000, 3, 5000))
    squared = {
        model: sum(float((tensors[name] - base[name]).double().square().sum()) for name in base)
        for model, tensors in models.items()
    }
    total = sum(squared.values())
    merged = run_model_op(MetagptOp, {"lambda": 0.7}, models, base)
    for name, below in base.items():
        learned = sum(
            squared[model] / total * (tensors[name] - below).double() for model, tensors in models.items()
        )
        assert torch.allclose(merged[name].double(), below.double() + 0.7 * learned, rtol=1e-6, atol=1e-6)


def test_tensor_scope_weighs_every_tensor_by_itself():
    base = {"v": torch.zeros(1), "w": torch.zeros(1)}
    models = {
        "a": {"v": torch.tensor([1.0]), "w": torch.tensor([2.0])},
        "b": {"v": torch.tensor([3.0]), "w": torch.tensor([0.0])},
    }
    whole = run_model_op(MetagptOp, {}, models, base)
    assert {name: values.item() for name, values in whole.items()} == pytest.approx(
        {"v": 5 / 14 + 3 * 9 / 14, "w": 2 * 5 / 14}
    )
    alone = [run_op(MetagptOp, {"scope": "tensor"}, [models[m][n] for m in "ab"], base[n]) for n in "vw"]
    assert [values.item() for values in alone] == pytest.approx([0.1 + 3 * 0.9, 2.0])


def test_layers_are_pools_and_what_lies_outside_is_one():
    signature = signature_of(MetagptOp, [torch.ones(1)], torch.ones(1), [None], role=Role("mlp.up", 4))
    outside = signature_of(MetagptOp, [torch.ones(1)], torch.ones(1), [None], role=Role("embed"))
    given = {scope: MetagptOp.params(scope=scope) for scope in ("tensor", "layer", "model")}
    assert [MetagptOp.pool(signature, p) for p in given.values()] == [None, ("", 4), None]
    assert MetagptOp.pool(outside, given["layer"]) is None
    assert [MetagptOp.split_of(p) for p in given.values()] == [Split.REDUCE, Split.MODEL, Split.MODEL]


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(MetagptOp, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
