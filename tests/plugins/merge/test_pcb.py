"""merge.pcb: scores and weights by hand, and against the formula on flat vectors in float64."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Scan, Split
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge.pcb import Pcb, PcbOp

TENSOR = {"scope": "tensor"}


def random_models(shape, count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(math.prod(shape) + count)
    base = torch.randn(shape, generator=generator).to(dtype)
    return [base + (0.1 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)], base


def naive(models, base, *, ratio=0.1, clip=1e-4, lam=1.0):
    """Sort flat vectors in float64; also return where a score is too close to the floor to tell its side."""
    deltas = torch.stack([(model.double() - base.double()).flatten() for model in models])
    numel, cut = deltas.shape[1], int(clip * deltas.shape[1])
    rising = deltas.abs().sort(1).values
    low, high = rising[:, cut, None], rising[:, numel - 1 - cut, None]
    size = deltas.abs().clamp(low, high)
    a = ((size - low) / (high - low)).nan_to_num(0, 0, 0)
    beta = (len(models) * a.square()).exp() * torch.tanh(deltas * deltas.sum(0))
    floor = beta.sort(1).values[:, int((1 - ratio) * numel), None]
    close = ((beta - floor).abs() < 1e-5 * floor.abs()) & (beta != floor)
    weight = ((beta.clamp(min=floor) - floor) / (beta.amax(1, keepdim=True) - floor)).nan_to_num(0, 0, 0)
    merged = (weight * deltas.sign() * size).sum(0) / weight.sum(0).clamp(min=1e-12)
    return base.double() + lam * merged.view(base.shape), close.any(0).view(base.shape)


def test_agreeing_and_large_elements_win():
    """β = [7.39, -1.09, 1.65, 0] and [1.65, 7.39, 1.00, 0.76]: above the second largest there is one in each."""
    OpCase(
        PcbOp,
        {**TENSOR, "ratio": 0.5, "clip": 0.0},
        models=[[4.0, 1.0, -2.0, 0.0], [2.0, -3.0, -1.0, 1.0]],
        base=[0.0] * 4,
        expected=[4, -3, 0, 0],
        identity=[Identity({"lambda": 0}, gives=BASE)],
        permutable=True,
    ).check()


def test_weights_are_from_zero_at_the_floor_to_one_at_the_top():
    """One model: β = e^(a²)·tanh(τ²); with all elements in, the least has weight 0 and is left out."""
    merged = run_op(
        PcbOp, {**TENSOR, "ratio": 1.0, "clip": 0.0}, [torch.tensor([1.0, -2.0, 3.0])], torch.zeros(3)
    )
    assert merged.tolist() == pytest.approx([0, -2, 3])


def test_one_model_keeps_its_largest_but_for_the_last():
    models, base = random_models((1000,), 1)
    delta = models[0] - base
    merged = run_op(PcbOp, {**TENSOR, "clip": 0.0}, models, torch.zeros(1000) + base) - base
    last = delta.abs().sort(descending=True).values[99]
    assert torch.equal(merged != 0, delta.abs() > last)
    assert torch.allclose(merged[merged != 0], delta[merged != 0], atol=1e-6)


def test_outliers_are_clipped_to_the_order_statistic():
    """Of ten, one at either end: 100 becomes 9, and is still the largest."""
    delta = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    merged = run_op(PcbOp, {**TENSOR, "ratio": 0.3, "clip": 0.1}, [delta], torch.zeros(10))
    assert merged.tolist() == pytest.approx([0] * 8 + [9, 9])


def test_where_all_scores_are_negative_the_least_negative_wins():
    """One model against a larger one: τ·Στ < 0 everywhere; its floor and its top are negative."""
    small, large = torch.tensor([1.0, 1.5, 2.0, 2.5]), torch.tensor([-4.0, -5.0, -6.0, -9.0])
    settings = {**TENSOR, "ratio": 0.5, "clip": 0.0}
    merged = run_op(PcbOp, settings, [small, large], torch.zeros(4))
    wanted, _ = naive([small, large], torch.zeros(4), ratio=0.5, clip=0)
    assert torch.allclose(merged.double(), wanted, rtol=1e-6)
    assert merged[0] == 1.0


@pytest.mark.parametrize("delta", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.5]], ids=str)
def test_deltas_whose_sizes_do_not_differ_leave_the_base(delta):
    """Their scores are all at the floor, which weighs nothing; there is no division by zero."""
    base = torch.ones(len(delta))
    assert same_bytes(run_op(PcbOp, TENSOR, [base + torch.tensor(delta)] * 2, base), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(33, 65), (300, 1000)])
@pytest.mark.parametrize("settings", [{}, {"ratio": 0.4, "clip": 0.01, "lambda": 0.8}], ids=str)
def test_it_equals_the_flat_reference(shape, dtype, settings):
    models, base = random_models(shape, 3, dtype)
    names = {"ratio": "ratio", "clip": "clip", "lambda": "lam"}
    wanted, close = naive(models, base, **{names[key]: value for key, value in settings.items()})
    wide = [models, base] if dtype == torch.float64 else [[m.float() for m in models], base.float()]
    merged = run_op(PcbOp, {**TENSOR, **settings}, *wide, chunk=70_001)
    assert close.sum() <= 1 + 0.001 * close.numel()
    assert torch.allclose(merged.double()[~close], wanted[~close], rtol=1e-6, atol=1e-5)
    if dtype == torch.bfloat16:
        assert same_bytes(run_op(PcbOp, {**TENSOR, **settings}, models, base), merged.to(dtype))


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_the_laws_hold(scope):
    models, base = random_models((40, 11), 3)
    OpCase(PcbOp, {"scope": scope, "clip": 0.01}, models=models, base=base, tolerance=1e-5).check()


def test_model_scope_equals_tensor_scope_of_one_concatenated_tensor():
    parts = {name: random_models((size,), 2) for name, size in (("a", 140_000), ("b", 3), ("c", 5000))}
    models = {model: {name: parts[name][0][index] for name in parts} for index, model in enumerate("xy")}
    base = {name: parts[name][1] for name in parts}
    merged = run_model_op(PcbOp, {}, models, base)
    joined = {model: torch.cat(list(tensors.values())) for model, tensors in models.items()}
    whole = run_op(PcbOp, TENSOR, joined, torch.cat(list(base.values())))
    assert same_bytes(torch.cat(list(merged.values())), whole)


def test_the_whole_model_is_the_default_and_a_large_tensor_is_sampled():
    assert PcbOp.split_of(Pcb()) is Split.MODEL
    models, base = random_models((300, 1000), 2)
    signature = signature_of(PcbOp, models, base, [None] * 2)
    assert PcbOp.implementation.scan(signature, Pcb(scope="tensor"), None, 0) is Scan.SAMPLE
    assert PcbOp.implementation.scan(signature, Pcb(), None, 0) is Scan.ALL


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(PcbOp, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_nothing_is_made_of_nothing(scope):
    empty = torch.zeros(0, 4)
    assert run_op(PcbOp, {"scope": scope}, [empty, empty], empty).shape == (0, 4)
