"""merge.ramplus: how much own changes grow; by hand and against counts in float64."""

from __future__ import annotations

import pytest
import torch

from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery_merge.ram import RamOp
from surgery_merge.ramplus import RamPlus, RamPlusOp, boost


def random_models(shape, count, share=0.4):
    generator = torch.Generator().manual_seed(count + sum(shape))
    base = torch.randn(shape, generator=generator)
    deltas = [
        0.01 * torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < share)
        for _ in range(count)
    ]
    return [base + delta for delta in deltas], base


def naive(models, base, r, alpha):
    deltas = torch.stack([(model - base).double() for model in models])
    active = deltas.abs() > 1e-5
    owners = active.sum(0)
    total = torch.zeros_like(base, dtype=torch.float64)
    for delta, mine in zip(deltas, active, strict=True):
        own, shared = (mine & (owners == 1)).sum().item(), (mine & (owners > 1)).sum().item()
        growth = 1 + r * min(max(shared / own, 0), alpha) if own else 1
        total += torch.where(mine & (owners == 1), growth * delta, 0) + torch.where(
            mine & (owners > 1), delta / owners.clamp(min=1), 0
        )
    return base.double() + total


def test_own_changes_grow_by_what_is_shared():
    """Each model shares one change for one of its own: ρ = 1 is cut to 0.2, own changes grow by 1.02."""
    OpCase(
        RamPlusOp,
        models=[[1.0, 2.0, 0.0], [0.0, 4.0, 3.0]],
        base=[0.0] * 3,
        expected=[1.02, 3, 3.06],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
        ],
        permutable=True,
    ).check()


def test_a_ratio_below_alpha_counts_as_it_is():
    """Ten changes of its own and one shared: 1 + 0.5·0.1."""
    p = RamPlus(r=0.5, alpha=0.2)
    assert boost((10, 1), p) == pytest.approx(1.05)
    assert boost((1, 10), p) == pytest.approx(1.1)
    assert boost((0, 10), p) == 1


def test_without_growth_it_is_ram():
    models, base = random_models((50, 20), 3)
    for settings in ({"r": 0.0}, {"alpha": 0.0}):
        merged = run_op(RamPlusOp, settings, models, base)
        assert torch.allclose(merged, run_op(RamOp, {}, models, base), rtol=1e-7, atol=0)


@pytest.mark.parametrize("shape", [(), (1,), (33, 65)])
@pytest.mark.parametrize(("r", "alpha"), [(0.1, 0.2), (0.7, 5.0)])
def test_it_equals_the_naive_reference(shape, r, alpha):
    models, base = random_models(shape, 3)
    merged = run_op(RamPlusOp, {"r": r, "alpha": alpha}, models, base, chunk=100)
    assert torch.allclose(merged.double(), naive(models, base, r, alpha), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("epsilon", [1e-5, "relative"])
def test_the_laws_hold(scope, epsilon):
    models, base = random_models((40, 11), 3)
    settings = {"scope": scope, "epsilon": epsilon}
    OpCase(RamPlusOp, settings, models=models, base=base, permutable=True).check()


@pytest.mark.parametrize("epsilon", [1e-5, "relative"])
def test_model_scope_equals_tensor_scope_of_one_concatenated_tensor(epsilon):
    parts = {name: random_models((size,), 2, share) for name, size, share in (("a", 200, 0.9), ("b", 3, 0.5))}
    models = {model: {name: parts[name][0][index] for name in parts} for index, model in enumerate("xy")}
    base = {name: parts[name][1] for name in parts}
    settings = {"epsilon": epsilon, "alpha": 100.0}
    merged = run_model_op(RamPlusOp, settings | {"scope": "model"}, models, base)
    joined = {model: torch.cat(list(tensors.values())) for model, tensors in models.items()}
    whole = run_op(RamPlusOp, settings, joined, torch.cat(list(base.values())))
    assert same_bytes(torch.cat(list(merged.values())), whole)
    alone = run_op(RamPlusOp, settings, [parts["a"][0][0], parts["a"][0][1]], base["a"])
    assert not torch.equal(merged["a"], alone)


def test_one_model_is_that_model_if_every_difference_counts():
    model, base = torch.tensor([0.3]), torch.tensor([7.1])
    assert same_bytes(run_op(RamPlusOp, {"epsilon": 0.0}, [model], base), model)


@pytest.mark.parametrize("epsilon", [1e-5, "relative"])
def test_nothing_is_made_of_nothing(epsilon):
    empty = torch.zeros(0, 4)
    for op in (RamOp, RamPlusOp):
        assert run_op(op, {"epsilon": epsilon}, [empty, empty], empty).shape == (0, 4)
