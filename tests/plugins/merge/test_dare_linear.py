"""merge.dare_linear: what survives, how it is scaled, and that chance is a function of the seed alone."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Split
from surgery.testing import Identity, OpCase, run_op
from surgery_merge._drop import Dare
from surgery_merge.dare_linear import DareLinearOp


def drop(delta, density, *, rescale="inverse", **settings):
    delta = torch.as_tensor(delta)
    params = {"rescale": rescale}
    return run_op(
        DareLinearOp, params, [delta], torch.zeros_like(delta), each=[{"density": density}], **settings
    )


def test_a_quarter_survives_four_times_as_large():
    merged = drop(torch.ones(100_000), 0.25)
    assert set(merged.unique().tolist()) == {0.0, 4.0}
    assert (merged != 0).double().mean().item() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_expected_result_is_the_delta(density):
    delta = torch.linspace(-2, 3, 5).repeat_interleave(100_000)
    mean = drop(delta, density).reshape(5, -1).double().mean(1)
    assert torch.allclose(mean, torch.linspace(-2, 3, 5).double(), atol=0.1)


def test_rescaling_by_inverse_l1_or_not_at_all():
    """τ = [1, 2, 3, 4] where only the 4 survives at density 1/4: 16 unbiased, 10 to keep Σ|τ|, 4 as it is."""
    delta = [1.0, 2.0, 3.0, 4.0]
    seed = next(s for s in range(1000) if (drop(delta, 0.25, seed=s) != 0).tolist() == [False] * 3 + [True])
    assert drop(delta, 0.25, seed=seed).tolist() == [0, 0, 0, 16]
    assert drop(delta, 0.25, seed=seed, rescale="l1").tolist() == [0, 0, 0, 10]
    assert drop(delta, 0.25, seed=seed, rescale="none").tolist() == [0, 0, 0, 4]


def test_l1_leaves_alone_what_it_cannot_rescale():
    assert drop([0.0, 0.0], 0.5, rescale="l1").tolist() == [0, 0]
    assert drop([1e-9, -1e-9], 1.0, rescale="l1").tolist() == pytest.approx([1e-9, -1e-9])


def test_l1_keeps_the_sum_of_magnitudes_of_a_large_tensor():
    delta = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    merged = drop(delta, 0.1, rescale="l1", chunk=100_000)
    assert merged.abs().double().sum().item() == pytest.approx(delta.abs().double().sum().item(), rel=1e-5)


def test_l1_sums_beyond_the_range_of_half_precision_stay_finite():
    """The sum of magnitudes is 100,000: above 65,504 a sum in float16 is infinite and the tensor NaN."""
    merged = drop(torch.ones(100_000, dtype=torch.float16), 0.5, rescale="l1")
    assert merged.dtype == torch.float16
    assert merged.max().item() == pytest.approx(2, abs=0.05)
    assert merged.double().sum().item() == pytest.approx(100_000, rel=1e-3)


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (5, 77)])
def test_the_laws_hold(shape, rescale):
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(shape, generator=generator)
    models = [base + torch.randn(shape, generator=generator) for _ in range(3)]
    OpCase(
        DareLinearOp,
        {"rescale": rescale, "lambda": 0.5},
        models=models,
        base=base,
        each=[{"density": 0.5}, {"density": 1, "weight": 0.3}, {"density": 0.0}],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0}] * 3, gives=BASE),
            Identity(each=[{"density": 0.5, "weight": 0}] * 3, gives=BASE),
            Identity({"lambda": 1}, each=[{"density": 0}, {"density": 1}, {"density": 0}], gives=1),
            Identity(
                {"normalize": True, "lambda": 1},
                each=[*[{"density": 0.5, "weight": 0}] * 2, {"density": 1}],
                gives=2,
            ),
        ],
        scale_equivariant=True,
        chunks=(1, 8, 100),
    ).check()


def test_a_density_of_one_is_task_arithmetic():
    base, model = torch.tensor([1.0]), torch.tensor([1.2])
    other = torch.tensor([0.9])
    each = [{"density": 1}] * 2
    assert run_op(DareLinearOp, {"lambda": 0.3}, [model, other], base, each=each).item() == pytest.approx(
        1.03
    )
    merged = run_op(DareLinearOp, {"normalize": True}, [model, other], base, each=each)
    assert merged.item() == pytest.approx(1.05)


def test_masks_depend_on_seed_tensor_and_model():
    delta = torch.ones(1000)
    mask = drop(delta, 0.5)
    assert torch.equal(mask, drop(delta, 0.5))
    assert not torch.equal(mask, drop(delta, 0.5, seed=1))
    assert not torch.equal(mask, drop(delta, 0.5, name="other"))
    both = run_op(DareLinearOp, {}, [delta, delta], torch.zeros(1000), each=[{"density": 0.5}] * 2)
    assert set(both.unique().tolist()) == {0.0, 2.0, 4.0}


def test_a_mask_of_a_lower_density_is_part_of_that_of_a_higher():
    few, many = drop(torch.ones(1000), 0.2) != 0, drop(torch.ones(1000), 0.6) != 0
    assert torch.equal(few & many, few)


def test_only_l1_needs_a_look_at_the_whole_tensor():
    assert DareLinearOp.split_of(Dare()) is Split.ELEMENT
    assert DareLinearOp.split_of(Dare(rescale="l1")) is Split.REDUCE


def test_weights_that_cancel_are_refused():
    each = [{"density": 0.5, "weight": 1}, {"density": 0.5, "weight": -1}]
    with pytest.raises(OpError) as error:
        run_op(DareLinearOp, {"normalize": True}, [torch.ones(1)] * 2, torch.zeros(1), each=each)
    assert str(error.value) == (
        "w: the weights 1, -1 sum to 0, which normalize divides by; change one or set normalize: false"
    )
