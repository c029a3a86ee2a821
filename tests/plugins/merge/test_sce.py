"""merge.sce: the three steps by hand, and against a sort in float64."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Scan
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge.sce import SceOp


def random_models(shape, count, dtype=torch.float32, sizes=(0.01, 0.02, 0.005)):
    generator = torch.Generator().manual_seed(math.prod(shape) + count)
    base = torch.randn(shape, generator=generator).to(dtype)
    return [(base + sizes[i] * torch.randn(shape, generator=generator)).to(dtype) for i in range(count)], base


def naive(models, base, topk, lam=1.0):
    """Select by a sort, weigh and erase in float64; also return where a vote is too close to tell."""
    deltas = torch.stack([model.double() - base.double() for model in models])
    variance = torch.stack([model.double() for model in models]).var(0, unbiased=False)
    close = torch.zeros_like(variance, dtype=torch.bool)
    if topk < 1:
        kept = int(topk * int((variance > 0).sum()))
        if kept == 0:
            return base.double(), close
        threshold = variance.flatten().sort(descending=True).values[kept - 1]
        deltas = torch.where(variance >= threshold * (1 - 1e-9), deltas, 0)  # equal but for rounding
    energy = deltas.square().reshape(len(models), -1).sum(1)
    weights = (energy / energy.sum()).nan_to_num().reshape(-1, *[1] * base.dim())
    total = deltas.sum(0)
    close |= (total != 0) & (total.abs() < 1e-5 * deltas.abs().sum(0))
    agrees = deltas.sign() == torch.where(total >= 0, 1.0, -1.0)
    divisor = (weights * agrees).sum(0)
    mixed = (weights * deltas * agrees).sum(0) / torch.where(divisor == 0, 1, divisor)
    return base.double() + lam * mixed, close


def test_models_weigh_as_much_as_they_changed():
    """Energies 5/2 and 10/2: weights 1/3 and 2/3. (1 + 2·3)/3; the sum of -2 and 1 elects -, the second is erased."""
    OpCase(
        SceOp,
        models=[[1.0, -2.0], [3.0, 1.0]],
        base=[0.0, 0.0],
        expected=[7 / 3, -2],
        identity=[Identity({"lambda": 0}, gives=BASE), Identity({"select_topk": 0}, gives=BASE)],
        permutable=True,
    ).check()


def test_nine_to_one_is_nine_tenths_and_one_tenth():
    OpCase(SceOp, models=[[8.0, 5.0], [6.0, 5.0]], base=[5.0, 5.0], expected=[7.8, 5]).check()


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-7])
def test_small_changes_are_weighed_like_large_ones(size):
    """A floor under the energies (1e-6) would make the weights of every short fine-tune equal."""
    models = [torch.full((100,), 3 * size), torch.full((100,), 1 * size)]
    merged = run_op(SceOp, {}, models, torch.zeros(100))
    assert torch.allclose(merged / size, torch.full((100,), 2.8))


def test_the_elements_of_the_largest_variance_are_selected():
    """Variances 1, 4, 0, 0.25 of two models: of three that differ a half is one, the second."""
    models = [[2.0, 4.0, 7.0, 1.0], [0.0, 0.0, 7.0, 0.0]]
    OpCase(SceOp, {"select_topk": 0.5}, models=models, base=[0.0] * 4, expected=[0, 4, 0, 0]).check()
    OpCase(SceOp, {"select_topk": 0.7}, models=models, base=[0.0] * 4, expected=[2, 4, 0, 0]).check()


@pytest.mark.parametrize("models", [[[3.0, 1.0], [3.0, 1.0]], [[1 / 3, 0.1]] * 3, [[3.0, 1.0]]], ids=str)
def test_without_any_variance_nothing_is_selected(models):
    base = [2.0, -0.0]
    merged = run_op(SceOp, {"select_topk": 0.9}, [torch.tensor(m) for m in models], torch.tensor(base))
    assert same_bytes(merged, torch.tensor(base))


def test_a_share_of_less_than_one_element_selects_none():
    models = [torch.tensor([2.0, 4.0, 7.0]), torch.zeros(3)]
    assert run_op(SceOp, {"select_topk": 0.3}, models, torch.ones(3)).tolist() == [1, 1, 1]


def test_elements_that_equal_the_last_selected_stay():
    models = [[2.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    OpCase(SceOp, {"select_topk": 0.25}, models=models, base=[0.0] * 4, expected=[2, 2, 2, 0]).check()


def test_one_model_is_that_model():
    model, base = torch.tensor([0.3]), torch.tensor([7.1])
    assert same_bytes(run_op(SceOp, {}, [model], base), model)
    assert run_op(SceOp, {"lambda": 0.5}, [model], base).item() == pytest.approx(3.7)


def test_models_that_equal_the_base_change_nothing():
    base = torch.tensor([1.0, 2.0])
    assert same_bytes(run_op(SceOp, {}, [base.clone(), base.clone()], base), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (33, 65), (300, 1000)])
@pytest.mark.parametrize("topk", [1.0, 0.5, 0.01])
@pytest.mark.parametrize("count", [2, 3])
def test_it_equals_the_naive_reference(shape, dtype, topk, count):
    models, base = random_models(shape, count, dtype)
    wanted, close = naive(models, base, topk, lam=0.7)
    settings = {"select_topk": topk, "lambda": 0.7}
    merged = run_op(SceOp, settings, models, base, chunk=70_001)
    assert merged.dtype == dtype
    assert close.sum() <= 1 + 0.01 * close.numel()
    if dtype == torch.bfloat16:
        wide = run_op(SceOp, settings, [m.float() for m in models], base.float())
        assert same_bytes(merged, wide.to(dtype))
        merged = wide
    assert torch.allclose(merged.double()[~close], wanted[~close], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("topk", [1.0, 0.4])
def test_the_laws_hold(topk):
    models, base = random_models((40, 11), 3)
    OpCase(SceOp, {"select_topk": topk}, models=models, base=base, permutable=True).check()


def test_the_result_scales_with_the_deltas():
    """By a power of two, so that every product is exact."""
    models, base = random_models((50, 20), 2)
    zero = torch.zeros_like(base)
    deltas = [model - base for model in models]
    for topk in (1.0, 0.3):
        once = run_op(SceOp, {"select_topk": topk}, deltas, zero)
        again = run_op(SceOp, {"select_topk": topk}, [delta * 2**-12 for delta in deltas], zero)
        assert torch.allclose(again * 2**12, once, rtol=1e-6, atol=0)


def test_a_large_tensor_is_sampled_first_if_elements_are_selected():
    models, base = random_models((300, 1000), 2)
    signature, op = signature_of(SceOp, models, base, [None] * 2), SceOp.implementation
    assert op.scan(signature, SceOp.params(), None, 0) is Scan.ALL
    assert op.scan(signature, SceOp.params(select_topk=0.5), None, 0) is Scan.SAMPLE


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(SceOp, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
