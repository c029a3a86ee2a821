"""merge.breadcrumbs: which elements stay, against numbers by hand and a sort in float64."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Scan
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge.breadcrumbs import BreadcrumbsOp
from surgery_merge.ties import TiesOp

ONE_TO_TEN = [float(value) for value in range(1, 11)]


def crumbs(delta, density, gamma, *, chunk=None, **params):
    delta = torch.as_tensor(delta)
    each = [{"density": density, "gamma": gamma}]
    return run_op(BreadcrumbsOp, params, [delta], torch.zeros_like(delta), each=each, chunk=chunk)


def random_models(shape, count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(math.prod(shape) + count)
    base = torch.randn(shape, generator=generator).to(dtype)
    return [(base + 0.01 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)], base


def naive(models, base, each, *, lam=1.0, normalize=False):
    """Sort by magnitude, cut both ends off, keep what equals what stays; in float64."""
    total = torch.zeros(base.shape, dtype=torch.float64)
    for model, entry in zip(models, each, strict=True):
        delta = model.float() - base.float()
        n = delta.numel()
        kept = int(entry["density"] * n)
        outliers = max(0, min(int(entry["gamma"] * n), n - kept))
        falling = delta.abs().flatten().sort(descending=True).values
        if kept:
            inside = (delta.abs() <= falling[outliers]) & (delta.abs() >= falling[outliers + kept - 1])
            total += entry.get("weight", 1.0) * torch.where(inside, delta.double(), 0)
    if normalize:
        total /= sum(entry.get("weight", 1.0) for entry in each)
    return base.double() + lam * total


def test_the_two_largest_and_the_three_smallest_of_ten_are_dropped():
    OpCase(
        BreadcrumbsOp,
        models=[ONE_TO_TEN],
        base=[0.0] * 10,
        each=[{"density": 0.5, "gamma": 0.2}],
        expected=[0, 0, 0, 4, 5, 6, 7, 8, 0, 0],
        tolerance=0,
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0}], gives=BASE),
            Identity(each=[{"density": 0.09}], gives=BASE),
            Identity(each=[{"density": 1, "gamma": 0.5}], gives=0),
            Identity({"normalize": True}, each=[{"density": 1, "weight": 3}], gives=0),
        ],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_the_largest_and_the_four_smallest_of_ten_are_dropped_as_in_mergekit():
    assert crumbs(ONE_TO_TEN, 0.5, 0.1).tolist() == [0, 0, 0, 0, 5, 6, 7, 8, 9, 0]


def test_without_outliers_it_keeps_what_ties_keeps():
    models, base = random_models((37, 11), 1)
    trimmed = run_op(TiesOp, {}, models, base, each=[{"density": 0.3}])
    merged = run_op(BreadcrumbsOp, {}, models, base, each=[{"density": 0.3, "gamma": 0}])
    assert torch.equal(merged, trimmed)


def test_fifty_elements_with_a_gamma_below_one_of_them_keep_forty_five():
    """Counting no outliers from the end would keep nothing."""
    delta = torch.arange(1.0, 51)
    assert torch.equal(crumbs(delta, 0.9, 0.01) != 0, delta > 5)


def test_a_gamma_that_leaves_no_room_is_cut_to_the_density():
    assert crumbs(ONE_TO_TEN, 0.8, 0.5).tolist() == [*ONE_TO_TEN[:8], 0, 0]


def test_what_equals_an_end_of_the_band_stays():
    """Of 4, 3, 3, 2, 1, 1 the band is 3 to 1: its ends are shared with elements outside."""
    delta = [4.0, -3.0, 3.0, 2.0, -1.0, 1.0]
    assert crumbs(delta, 0.5, 0.34).tolist() == [0, -3, 3, 2, -1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (33, 65), (300, 1000)])
@pytest.mark.parametrize("settings", [{}, {"normalize": True, "lambda": 0.3}], ids=str)
def test_it_equals_a_sort(shape, dtype, settings):
    models, base = random_models(shape, 2, dtype)
    each = [{"density": 0.6, "gamma": 0.05, "weight": 0.5}, {"density": 0.1, "gamma": 0.01}]
    wanted = naive(models, base, each, lam=settings.get("lambda", 1), normalize="normalize" in settings)
    wide = run_op(BreadcrumbsOp, settings, [m.float() for m in models], base.float(), each=each, chunk=7001)
    assert torch.allclose(wide.double(), wanted, rtol=1e-6, atol=1e-6)
    stored = run_op(BreadcrumbsOp, settings, models, base, each=each)
    assert stored.dtype == dtype
    if dtype != torch.float64:
        assert same_bytes(stored, wide.to(dtype))


def test_float64_deltas_that_round_to_an_end_of_the_band_stay():
    """The second largest is 1 + 2^-23, an odd pattern: half-way up from it is already outside."""
    ulp = 2.0**-23
    delta = torch.tensor([9.0, 1 + 1.5 * ulp, 1 + 1.4 * ulp, 0.75, 0.5], dtype=torch.float64)
    each = [{"density": 0.4, "gamma": 0.4}]
    merged = run_op(BreadcrumbsOp, {}, [delta], torch.zeros_like(delta), each=each)
    assert merged.tolist() == [0, 0, 1 + 1.4 * ulp, 0.75, 0]


def test_rescaling_by_l1_restores_the_sum_of_magnitudes():
    """Of 1 to 4 the 3 stays, and becomes 10."""
    assert crumbs([1.0, -2.0, 3.0, 4.0], 0.25, 0.25, rescale="l1").tolist() == [0, 0, 10, 0]
    large = random_models((300, 1000), 1)[0][0]
    merged = crumbs(large, 0.3, 0.01, rescale="l1", chunk=50_000)
    assert merged.abs().double().sum().item() == pytest.approx(large.abs().double().sum().item(), rel=1e-6)


@pytest.mark.parametrize("settings", [{"rescale": "l1"}, {"scope": "model"}], ids=str)
def test_the_laws_hold_where_more_is_gathered(settings):
    models, base = random_models((40, 11), 3)
    OpCase(
        BreadcrumbsOp,
        settings,
        models=models,
        base=base,
        each=[{"density": 0.5, "gamma": 0.1}, {"density": 0.2}, {"density": 1, "weight": -0.5}],
        permutable=True,
    ).check()


def test_model_scope_equals_tensor_scope_of_one_concatenated_tensor():
    parts = {name: random_models((size,), 2) for name, size in (("a", 140_000), ("b", 3), ("c", 5000))}
    models = {model: {name: parts[name][0][index] for name in parts} for index, model in enumerate("xy")}
    base = {name: parts[name][1] for name in parts}
    each = {"x": {"density": 0.3}, "y": {"weight": 0.5, "density": 0.1, "gamma": 0.2}}
    for rescale in ("none", "l1"):
        merged = run_model_op(BreadcrumbsOp, {"scope": "model", "rescale": rescale}, models, base, each)
        joined = {model: torch.cat(list(tensors.values())) for model, tensors in models.items()}
        whole = run_op(BreadcrumbsOp, {"rescale": rescale}, joined, torch.cat(list(base.values())), each=each)
        assert torch.allclose(torch.cat(list(merged.values())), whole, rtol=1e-6, atol=1e-7)


def test_all_thresholds_are_sought_in_the_same_passes():
    models, base = random_models((300, 1000), 2)
    each = [{"density": 0.5, "gamma": 0.1}, {"density": 0.3}]
    op, p = BreadcrumbsOp.implementation, BreadcrumbsOp.params()
    assert op.scan(signature_of(BreadcrumbsOp, models, base, each), p, None, 0) is Scan.SAMPLE
    whole = signature_of(BreadcrumbsOp, models, base, [{"density": 1}] * 2)
    assert op.scan(whole, p, None, 0) is None


def test_weights_that_cancel_are_refused():
    each = [{"density": 0.5, "weight": 1}, {"density": 0.5, "weight": -1}]
    with pytest.raises(OpError) as error:
        run_op(BreadcrumbsOp, {"normalize": True}, [torch.ones(1)] * 2, torch.zeros(1), each=each)
    assert str(error.value) == (
        "w: the weights 1, -1 sum to 0, which normalize divides by; change one or set normalize: false"
    )


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(BreadcrumbsOp, {}, [torch.ones(1)], each=[{"density": 1}])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
