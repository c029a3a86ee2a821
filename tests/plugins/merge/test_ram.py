"""merge.ram: own changes whole, shared ones averaged; by hand and against a loop in float64."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Split
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.ram import Ram, RamOp


def random_models(shape, count, dtype=torch.float32):
    """Sparse deltas that overlap now and then."""
    generator = torch.Generator().manual_seed(count + sum(shape))
    base = torch.randn(shape, generator=generator).to(dtype)
    deltas = [
        0.01 * torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.4)
        for _ in range(count)
    ]
    return [(base + delta).to(dtype) for delta in deltas], base


def naive(models, base, epsilon=1e-5, lam=1.0):
    deltas = torch.stack([(model - base).double() for model in models])
    cutoffs = [
        0.01 * delta.square().mean().sqrt() if epsilon == "relative" else torch.tensor(epsilon).double()
        for delta in deltas
    ]
    active = torch.stack([delta.abs() > cutoff for delta, cutoff in zip(deltas, cutoffs, strict=True)])
    return base.double() + lam * (deltas * active).sum(0) / active.sum(0).clamp(min=1)


def test_own_changes_stay_whole_and_shared_ones_are_averaged():
    OpCase(
        RamOp,
        models=[[1.0, 2.0, 0.0], [0.0, 4.0, 3.0]],
        base=[0.0] * 3,
        expected=[1, 3, 3],
        tolerance=0,
        identity=[Identity({"lambda": 0}, gives=BASE)],
        permutable=True,
    ).check()


def test_deltas_that_do_not_overlap_add_up():
    models = [[1.0, 0.0, 0.0], [0.0, -4.0, 0.0], [0.0, 0.0, 3.0]]
    OpCase(RamOp, models=models, base=[0.0] * 3, expected=[1, -4, 3], tolerance=0).check()


def test_a_change_of_exactly_epsilon_does_not_count():
    models = [[0.25, 0.5, -0.5, 0.75]]
    OpCase(RamOp, {"epsilon": 0.5}, models=models, base=[0.0] * 4, expected=[0, 0, 0, 0.75]).check()


def test_an_epsilon_of_zero_counts_every_difference():
    models = [torch.tensor([1e-7, 0.0]), torch.tensor([3e-7, 1e-7])]
    merged = run_op(RamOp, {"epsilon": 0.0}, models, torch.zeros(2))
    assert merged.tolist() == pytest.approx([2e-7, 1e-7])
    assert run_op(RamOp, {}, models, torch.zeros(2)).tolist() == [0, 0]


def test_a_relative_epsilon_is_one_hundredth_of_the_root_mean_square():
    """rms = 2 for each: 0.02 and less is noise, however small the deltas are."""
    models = [torch.tensor([4.0, 0.02, 0.0, 0.0]), torch.tensor([0.0, 0.021, 4.0, 0.0])]
    for size in (1.0, 2.0**-30):
        merged = run_op(RamOp, {"epsilon": "relative"}, [size * m for m in models], torch.zeros(4))
        assert (merged / size).tolist() == pytest.approx([4, 0.021, 4, 0])


def test_one_model_is_that_model_if_every_difference_counts():
    model, base = torch.tensor([0.3]), torch.tensor([7.1])
    assert same_bytes(run_op(RamOp, {"epsilon": 0.0}, [model], base), model)


@pytest.mark.parametrize("epsilon", [1e-5, 5e-3, "relative"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (33, 65)])
def test_it_equals_the_naive_reference(shape, dtype, epsilon):
    models, base = random_models(shape, 3, dtype)
    wide = run_op(
        RamOp, {"epsilon": epsilon, "lambda": 0.7}, [m.float() for m in models], base.float(), chunk=100
    )
    wanted = naive([m.float() for m in models], base.float(), epsilon, 0.7)
    assert torch.allclose(wide.double(), wanted, rtol=1e-6, atol=1e-6)
    stored = run_op(RamOp, {"epsilon": epsilon, "lambda": 0.7}, models, base)
    assert same_bytes(stored, wide.to(dtype))


@pytest.mark.parametrize("epsilon", [1e-5, "relative"])
def test_the_laws_hold(epsilon):
    models, base = random_models((40, 11), 3)
    OpCase(
        RamOp,
        {"epsilon": epsilon},
        models=models,
        base=base,
        scale_equivariant=epsilon == "relative",
        permutable=True,
    ).check()


def test_only_a_relative_epsilon_needs_a_look_at_the_whole_tensor():
    assert RamOp.split_of(Ram()) is Split.ELEMENT
    assert RamOp.split_of(Ram(epsilon="relative")) is Split.REDUCE


def test_a_negative_epsilon_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Ram(epsilon=-1.0)


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(RamOp, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
