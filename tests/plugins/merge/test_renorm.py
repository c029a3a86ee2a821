"""merge.renorm: lengths by hand, over tensors, layers and models."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Signature, Split
from surgery.tensors import Role, TensorSpec
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery_merge.renorm import RenormOp

# lengths 2.5, 5 and 13; the last two's mean [4, 8] has √80
DELTAS = [[1.5, -2.0], [3.0, 4.0], [5.0, 12.0]]


@pytest.mark.parametrize("scope", ["tensor", "layer", "model"])
@pytest.mark.parametrize(
    ("norm", "wanted"),
    [
        ("mean", [5.4, -7.2]),
        ("max", [7.8, -10.4]),
        ("average", [0.6 * 80**0.5, -0.8 * 80**0.5]),
        (10.0, [6.0, -8.0]),
    ],
    ids=["mean 9", "max 13", "average √80", "given 10"],
)
def test_a_delta_of_two_and_a_half_becomes_as_long_as_its_parents(norm, wanted, scope):
    OpCase(
        RenormOp,
        {"norm": norm, "scope": scope},
        models=DELTAS,
        base=[0.0, 0.0],
        expected=wanted,
        identity=[Identity({"norm": 0}, gives=BASE)],
        scale_equivariant=isinstance(norm, str),
        permutable=True,
    ).check()


def test_the_first_model_is_the_merged_one_whatever_the_names():
    models = {"z": torch.tensor([2.0]), "a": torch.tensor([7.0])}
    assert run_op(RenormOp, {}, models, torch.tensor([1.0])).item() == 7.0
    assert run_op(RenormOp, {}, {"a": models["a"], "z": models["z"]}, torch.tensor([1.0])).item() == 2.0


def test_a_number_needs_no_parents():
    OpCase(RenormOp, {"norm": 2.5}, models=[DELTAS[1]], base=[0.0, 0.0], expected=[1.5, 2.0]).check()


def test_a_delta_of_zeros_stays():
    base = torch.tensor([0.1, -0.0])
    assert same_bytes(run_op(RenormOp, {}, [base.clone(), torch.ones(2)], base), base)


def random_models(shape):
    generator = torch.Generator().manual_seed(9)
    base = torch.randn(shape, generator=generator)
    return [base + 0.01 * (i + 1) * torch.randn(shape, generator=generator) for i in range(4)], base


@pytest.mark.parametrize("shape", [(), (3, 1), (300, 1000)])
def test_it_equals_the_formula_in_float64(shape):
    models, base = random_models(shape)
    merged, *parents = [(model - base).double() for model in models]
    target = sum(parent.norm() for parent in parents) / 3
    wanted = base.double() + merged * target / merged.norm()
    result = run_op(RenormOp, {}, models, base, chunk=70_001)
    assert torch.allclose(result.double(), wanted, rtol=1e-6, atol=1e-7)


def test_the_average_is_that_of_the_parents_in_float64():
    models, base = random_models((300, 1000))
    merged, *parents = [(model - base).double() for model in models]
    wanted = base.double() + merged * (sum(parents) / 3).norm() / merged.norm()
    result = run_op(RenormOp, {"norm": "average"}, models, base)
    assert torch.allclose(result.double(), wanted, rtol=1e-6, atol=1e-7)


def test_doing_it_twice_is_doing_it_once():
    (merged, *parents), base = random_models((50, 20))
    once = run_op(RenormOp, {}, [merged, *parents], base)
    twice = run_op(RenormOp, {}, [once, *parents], base)
    assert torch.allclose(once, twice, rtol=1e-6, atol=1e-7)


def test_a_model_is_scaled_as_a_whole():
    """The merged deltas have lengths 3 and 4, 5 together; the parent's 6 and 8, 10 together."""
    base = {"v": torch.zeros(1), "w": torch.zeros(1)}
    models = {
        "merged": {"v": torch.tensor([3.0]), "w": torch.tensor([4.0])},
        "parent": {"v": torch.tensor([8.0]), "w": torch.tensor([6.0])},
    }
    whole = run_model_op(RenormOp, {"scope": "model"}, models, base)
    assert {name: values.item() for name, values in whole.items()} == {"v": 6.0, "w": 8.0}
    alone = {n: run_op(RenormOp, {}, [models[m][n] for m in models], base[n]).item() for n in base}
    assert alone == {"v": 8.0, "w": 6.0}


def test_scopes_pool_by_layer_or_not_at_all():
    spec = TensorSpec("w", (1,), "F32")
    inside, outside = (Signature("w", (spec,), spec, (), Role("mlp.up", layer), 1) for layer in (4, None))
    layer = RenormOp.params(scope="layer")
    assert (RenormOp.pool(inside, layer), RenormOp.pool(outside, layer)) == (("", 4), None)
    assert RenormOp.pool(inside, RenormOp.params(scope="model")) is None
    splits = [RenormOp.split_of(RenormOp.params(scope=scope)) for scope in ("tensor", "layer", "model")]
    assert splits == [Split.REDUCE, Split.MODEL, Split.MODEL]


def test_where_models_lack_the_tensor():
    spec = TensorSpec("w", (1,), "F32")

    def gives(*places):
        return RenormOp.simplify(
            Signature("w", (spec,) * len(places), spec, (), Role(), 1, places), RenormOp.params()
        )

    assert gives(1, 2) == BASE  # the merged model lacks it
    assert gives(0, 2) is None
    for norm in ("mean", "max", "average"):  # all parents lack it
        alone = Signature("w", (spec,), spec, (), Role(), 1, (0,))
        assert RenormOp.implementation.solve(alone, RenormOp.params(norm=norm), [[9.0]], None) == 1.0


@pytest.mark.parametrize(
    ("params", "base", "text"),
    [
        (
            {"norm": "max"},
            torch.ones(1),
            "norm: max needs models to compare with; list them behind the merged one, or give a number",
        ),
        ({"norm": 1.0}, None, "the base lacks this tensor, a delta needs it; leave it out with `where:`"),
    ],
)
def test_what_is_missing_is_said(params, base, text):
    with pytest.raises(OpError) as error:
        run_op(RenormOp, params, [torch.ones(1)], base)
    assert str(error.value) == f"w: {text}"


@pytest.mark.parametrize("norm", [-1.0, float("inf"), "median"])
def test_a_norm_is_mean_max_or_a_length(norm):
    with pytest.raises(ValueError, match="norm"):
        RenormOp.params(norm=norm)


def test_the_factor_is_noted_where_there_is_one():
    models, notes = [torch.tensor(delta) for delta in DELTAS], {}
    run_op(RenormOp, {"norm": "mean"}, models, torch.zeros(2), notes=notes)
    assert notes == {"factor": 9 / 2.5}
    zero = {}
    run_op(RenormOp, {"norm": "mean"}, [torch.zeros(2), *models], torch.zeros(2), notes=zero)
    assert zero == {}
