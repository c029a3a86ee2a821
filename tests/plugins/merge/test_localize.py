"""merge.localize: regions that do not meet, regions that do, and a reference that sorts."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Split
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery_merge.localize import LocalizeOp


def share(*densities):
    return [{"density": density} for density in densities]


def test_regions_that_do_not_meet_are_united_and_others_averaged():
    """Half of four: [9, -8, ., .] and [., 6, ., 7] meet at the second element."""
    OpCase(
        LocalizeOp,
        models=[[9.0, -8.0, 1.0, 2.0], [3.0, 6.0, 2.0, 7.0]],
        base=[0.0] * 4,
        each=share(0.5, 0.5),
        expected=[9.0, -1.0, 0.0, 7.0],
        tolerance=0,
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=share(0, 0), gives=BASE),
        ],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_an_only_model_that_is_all_region_is_copied():
    OpCase(
        LocalizeOp, models=[[0.3]], base=[0.1], each=share(0.5), identity=[Identity(each=share(1), gives=0)]
    ).check()


def test_what_did_not_change_is_nobodys_region():
    """All of both models: the mean of 4 and 2, but 6 whole where the other is as the base."""
    OpCase(
        LocalizeOp,
        {"lambda": 0.5},
        models=[[5.0, 7.0], [3.0, 1.0]],
        base=[1.0, 1.0],
        each=share(1, 1),
        expected=[1 + 0.5 * 3, 1 + 0.5 * 6],
    ).check()


def test_regions_may_be_scaled_to_the_mass_of_the_whole_delta():
    """Σ|τ| = 10, the region has 4 of it."""
    case = {"models": [[1.0, 2.0, 3.0, -4.0]], "base": [0.0] * 4, "each": share(0.25)}
    OpCase(LocalizeOp, {"rescale": "l1"}, **case, expected=[0, 0, 0, -10]).check()


def test_one_percent_is_the_default():
    models, base = random_models((10, 100), 1)
    changed = run_op(LocalizeOp, {}, models, base, each=[{}]) != base
    assert changed.sum() == 10


def random_models(shape, count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(math.prod(shape) + count)
    base = torch.randn(shape, generator=generator).to(dtype)
    return [(base + 0.02 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)], base


@pytest.mark.parametrize("shape", [(), (1,), (33, 65), (300, 1000)])
def test_it_equals_sorting_in_float64(shape):
    models, base = random_models(shape, 3)
    densities = (0.3, 0.05, 1.0)
    total, count = torch.zeros(shape).double(), torch.zeros(shape).double()
    for model, density in zip(models, densities, strict=True):
        delta = (model - base).double()
        kept = max(1, int(density * delta.numel()))
        mask = delta.abs() >= delta.abs().flatten().sort(descending=True).values[kept - 1]
        total, count = total + delta * mask, count + mask
    wanted = base.double() + 0.8 * total / count.clamp(min=1)
    merged = run_op(LocalizeOp, {"lambda": 0.8}, models, base, each=share(*densities), chunk=70_001)
    assert torch.allclose(merged.double(), wanted, rtol=1e-6, atol=1e-6)


def test_stored_dtypes_are_rounded_once():
    models, base = random_models((20, 30), 3, torch.bfloat16)
    each = share(0.1, 0.2, 0.3)
    exact = run_op(LocalizeOp, {}, [model.float() for model in models], base.float(), each=each)
    assert same_bytes(run_op(LocalizeOp, {}, models, base, each=each), exact.bfloat16())


def test_model_scope_takes_the_largest_of_the_whole_model():
    base = {"v": torch.zeros(2), "w": torch.zeros(2)}
    models = {"m": {"v": torch.tensor([1.0, 2.0]), "w": torch.tensor([3.0, 4.0])}}
    merged = run_model_op(LocalizeOp, {"scope": "model"}, models, base, {"m": {"density": 0.5}})
    assert {name: values.tolist() for name, values in merged.items()} == {"v": [0, 0], "w": [3, 4]}
    assert LocalizeOp.split_of(LocalizeOp.params(scope="model")) is Split.MODEL


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(LocalizeOp, {}, [torch.ones(1)], each=[{}])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
