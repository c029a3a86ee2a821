"""merge.della_linear: what survives, with which probability, and how it is scaled."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.math.random import stream_key, uniform
from surgery.ops import BASE, Split
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge._rank_drop import workspace
from surgery_merge.dare_linear import DareLinearOp
from surgery_merge.della_linear import DellaLinear, DellaLinearOp


def drop(delta, density, epsilon, **settings):
    delta = torch.as_tensor(delta)
    options = {key: settings.pop(key) for key in ("seed", "chunk", "name") if key in settings}
    each = [{"density": density, "epsilon": epsilon}]
    return run_op(DellaLinearOp, settings, [delta], torch.zeros_like(delta), each=each, **options)


def random_models(shape, count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count + sum(shape))
    base = torch.randn(shape, generator=generator).to(dtype)
    return [(base + 0.01 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)], base


def naive(models, base, each, *, op="merge.della_linear", rescale="inverse", whole=False):
    """Rank by counting, draw, divide; in float64. Returns each model's thinned-out delta."""
    thinned = []
    for index, (model, entry) in enumerate(zip(models, each, strict=True)):
        delta = (model.float() - base.float()).double()
        rows = delta.abs().reshape(len(delta) if delta.dim() > 1 and not whole else 1, -1)
        length = rows.shape[1]
        smaller = (rows[:, None, :] < rows[:, :, None]).sum(2)
        equal = (rows[:, None, :] == rows[:, :, None]).sum(2)
        rank = (smaller + (equal - 1) / 2) / max(length - 1, 1)
        d, e = entry["density"], entry["epsilon"]
        p = (d - e + 2 * e * rank if length > 1 else torch.full_like(rank, d)).reshape(delta.shape)
        draws = uniform(stream_key(0, op, "w", index), 0, torch.empty(delta.numel())).view(delta.shape)
        kept = torch.where(draws < p.float(), delta, 0)
        factor = {"inverse": 1 / p, "none": 1.0, "l1": delta.abs().sum() / kept.abs().sum()}[rescale]
        thinned.append(kept * factor)
    return thinned


def test_five_elements_are_kept_with_probabilities_from_three_to_seven_tenths():
    """With density 0.5 and epsilon 0.2: p = 0.3, 0.4, 0.5, 0.6, 0.7, and what is kept is divided by it."""
    delta = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0]]).repeat(20_000, 1)
    merged = drop(delta, 0.5, 0.2)
    share = (merged != 0).double().mean(0)
    assert torch.allclose(share, torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7]).double(), atol=0.015)
    values = [sorted(set(column.tolist()) - {0.0})[0] for column in merged.T]
    assert values == pytest.approx([3.3333, -5, 6, -6.6667, 7.1429], abs=1e-4)
    assert torch.allclose(merged.double().mean(0), delta[0].double(), atol=0.15)


def test_the_place_of_an_element_does_not_decide():
    """The first rows rise, the others fall: the shares kept are mirrored; of equal elements all have one p."""
    rising = torch.arange(1.0, 6).repeat(20_000, 1)
    shares = [(drop(rows, 0.5, 0.2) != 0).double().mean(0) for rows in (rising, rising.flip(1))]
    assert torch.allclose(shares[0], shares[1].flip(0), atol=0.02)
    assert set(drop(torch.ones(100, 5), 0.5, 0.2).unique().tolist()) == {0.0, 2.0}


def test_without_epsilon_the_probability_is_the_density():
    """The draws of DARE belong to another op, so only the scale and the share can be compared."""
    delta = torch.randn(100, 500, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros_like(delta)
    for op, entry in ((DellaLinearOp, {"density": 0.25, "epsilon": 0}), (DareLinearOp, {"density": 0.25})):
        merged = run_op(op, {}, [delta], zero, each=[entry])
        assert torch.equal(merged[merged != 0], 4 * delta[merged != 0])
        assert (merged != 0).double().mean().item() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("rescale", ["inverse", "none", "l1"])
@pytest.mark.parametrize("shape", [(), (1,), (300,), (7, 1), (40, 65), (6, 5, 4)])
def test_it_equals_ranks_by_counting(shape, rescale):
    """Rows of one element (a convolution [C, 1, k] has such) are kept with the density: no division by zero."""
    models, base = random_models(shape, 2)
    each = [{"density": 0.5, "epsilon": 0.15, "weight": 0.5}, {"density": 0.7, "epsilon": 0.1}]
    first, second = naive(models, base, each, rescale=rescale)
    wanted = base.double() + 0.3 * (0.5 * first + second).nan_to_num()
    merged = run_op(DellaLinearOp, {"rescale": rescale, "lambda": 0.3}, models, base, each=each)
    assert torch.allclose(merged.double(), wanted, rtol=1e-6, atol=1e-6)
    halves = [model.bfloat16() for model in models]
    stored = run_op(DellaLinearOp, {"rescale": rescale}, halves, base.bfloat16(), each=each)
    wide = run_op(
        DellaLinearOp, {"rescale": rescale}, [m.float() for m in halves], base.bfloat16().float(), each=each
    )
    assert same_bytes(stored, wide.bfloat16())


@pytest.mark.parametrize("scope", ["row", "tensor"])
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
@pytest.mark.parametrize("shape", [(), (1,), (77,), (5, 77), (3, 1, 4)])
def test_the_laws_hold(shape, rescale, scope):
    models, base = random_models(shape, 3)
    OpCase(
        DellaLinearOp,
        {"rescale": rescale, "lambda": 0.5, "scope": scope},
        models=models,
        base=base,
        each=[{"density": 0.5}, {"density": 1, "weight": 0.3}, {"density": 0}],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0}] * 3, gives=BASE),
            Identity({"lambda": 1}, each=[{"density": 0}, {"density": 1}, {"density": 0}], gives=1),
        ],
        scale_equivariant=True,
        chunks=(1, 2, 100),
    ).check()


@pytest.mark.parametrize("rescale", ["inverse", "none", "l1"])
@pytest.mark.parametrize("shape", [(), (1,), (300,), (40, 15)])
def test_ranks_may_be_those_of_the_whole_tensor(shape, rescale):
    """Deltas 1 % apart, which the histogram tells apart, in any order; every chunk knows its ranks in all."""
    generator = torch.Generator().manual_seed(3)
    base, count = torch.zeros(shape), torch.zeros(shape).numel()
    models = [
        (1.01 ** torch.randperm(count, generator=generator)).reshape(shape) * sign for sign in (1.0, -0.5)
    ]
    each = [{"density": 0.5, "epsilon": 0.4, "weight": 0.5}, {"density": 0.7, "epsilon": 0.1}]
    first, second = naive(models, base, each, rescale=rescale, whole=True)
    params = {"rescale": rescale, "scope": "tensor"}
    merged = run_op(DellaLinearOp, params, models, base, each=each, chunk=64)
    wanted = (0.5 * first + second).nan_to_num()
    assert (merged - wanted).abs().max() <= 1e-6 * max(first.abs().max(), second.abs().max(), 1)


def test_in_the_whole_tensor_a_row_of_small_changes_is_mostly_dropped():
    """The ranks of two magnitudes are a quarter and three quarters of the way from 0.1 to 0.9."""
    delta = torch.stack([torch.full((50_000,), 1.0), torch.full((50_000,), 3.0)])
    shares = (drop(delta, 0.5, 0.4, scope="tensor") != 0).double().mean(1)
    assert shares.tolist() == pytest.approx([0.3, 0.7], abs=0.01)
    shares = (drop(delta, 0.5, 0.4) != 0).double().mean(1)
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_tensor_of_many_blocks_is_ranked_by_all_of_them():
    delta = torch.randn(500, 600, generator=torch.Generator().manual_seed(0)) * 0.01
    merged = drop(delta, 0.4, 0.3, scope="tensor", rescale="none", chunk=70_001)
    kept, order = merged.flatten() != 0, delta.abs().flatten().argsort()
    shares = kept[order].double().view(10, -1).mean(1)
    assert shares.tolist() == pytest.approx([0.13 + 0.06 * index for index in range(10)], abs=0.01)
    assert kept.double().mean().item() == pytest.approx(0.4, abs=0.005)


@pytest.mark.parametrize("scope", ["row", "tensor"])
@pytest.mark.parametrize("rescale", ["inverse", "none", "l1"])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (3, 0, 2)])
def test_a_tensor_without_elements_stays_as_it_is(shape, rescale, scope):
    params = {"rescale": rescale, "scope": scope}
    each = [{"density": 0.5}]
    assert run_op(DellaLinearOp, params, [torch.ones(shape)], torch.zeros(shape), each=each).shape == shape


def test_l1_restores_the_sum_of_magnitudes_of_a_tensor_of_many_pieces():
    delta = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    merged = drop(delta, 0.3, 0.1, rescale="l1")
    assert merged.abs().double().sum().item() == pytest.approx(delta.abs().double().sum().item(), rel=1e-6)
    kept = drop(delta, 0.3, 0.1, rescale="none")
    assert torch.equal(merged != 0, kept != 0)


def test_what_is_kept_depends_on_seed_tensor_and_model():
    delta = torch.ones(10, 100)
    mask = drop(delta, 0.5, 0.1)
    assert not torch.equal(mask, drop(delta, 0.5, 0.1, seed=1))
    assert not torch.equal(mask, drop(delta, 0.5, 0.1, name="other"))
    each = [{"density": 0.5}] * 2
    both = run_op(DellaLinearOp, {}, [delta, delta], torch.zeros(10, 100), each=each)
    assert set(both.unique().tolist()) == {0.0, 2.0, 4.0}


def test_only_l1_of_rows_holds_a_tensor_and_says_how_much_memory_it_takes():
    assert DellaLinearOp.split_of(DellaLinear()) is Split.ROW
    assert DellaLinearOp.split_of(DellaLinear(rescale="l1")) is Split.TENSOR
    assert DellaLinearOp.split_of(DellaLinear(rescale="l1", scope="tensor")) is Split.REDUCE
    models, base = random_models((512, 1024), 2)
    from surgery.testing.runner import signature_of

    signature = signature_of(DellaLinearOp, models, base, [{"density": 0.5}] * 2)
    # draws and two masks of a byte, for half a million elements; and twelve pieces of 128 KiB
    assert workspace(signature, DellaLinear(rescale="l1")) == 6 * 512 * 1024 + 12 * 4 * 32768


@pytest.mark.parametrize(
    ("density", "epsilon", "said"),
    [
        (0.9, 0.15, "0.75 to 1.05, they must lie between 0 and 1; set epsilon below 0.1"),
        (0.1, 0.1, "0 to 0.2, they must lie between 0 and 1; set epsilon below 0.1"),
    ],
)
def test_probabilities_that_are_none_are_refused(density, epsilon, said):
    with pytest.raises(OpError) as error:
        drop([1.0, 2.0], density, epsilon)
    wanted = f"w: density {density:g} and epsilon {epsilon:g} keep with probabilities from {said}"
    assert str(error.value) == wanted


def test_densities_of_zero_and_one_have_no_use_for_an_epsilon():
    assert drop([1.0, 2.0], 1, 0.15).tolist() == [1, 2]
    assert drop([1.0, 2.0], 0, 0.15).tolist() == [0, 0]


def test_weights_that_cancel_are_refused():
    each = [{"density": 0.5, "weight": 1}, {"density": 0.5, "weight": -1}]
    with pytest.raises(OpError) as error:
        run_op(DellaLinearOp, {"normalize": True}, [torch.ones(1)] * 2, torch.zeros(1), each=each)
    assert str(error.value) == (
        "w: the weights 1, -1 sum to 0, which normalize divides by; change one or set normalize: false"
    )
