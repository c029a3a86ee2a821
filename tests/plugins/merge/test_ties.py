"""merge.ties against numbers by hand, a naive float64 reference, and itself cut into pieces."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Scan
from surgery.testing import Identity, OpCase, run_model_op, run_op, same_bytes
from surgery.testing.chunk import MemoryChunk
from surgery.testing.runner import signature_of
from surgery_merge.ties import TiesOp

DELTAS = [[5.0, 0.0, 2.0], [-1.0, 1.0, -3.0], [-1.0, 2.0, 4.0]]
ZERO = [0.0, 0.0, 0.0]


def dense(*weights):
    return [{"weight": weight, "density": 1} for weight in weights]


def random_models(shape, count, dtype=torch.float32, scale=0.01):
    generator = torch.Generator().manual_seed(math.prod(shape) + count)
    base = torch.randn(shape, generator=generator).to(dtype)
    models = [(base + scale * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)]
    return models, base


def naive(models, base, each, *, elect="mass", normalize=True, lam=1.0, unweighted=False):
    """Sort, trim, elect and average in float64; also return where the election is too close to tell."""
    trimmed = []
    for model, entry in zip(models, each, strict=True):
        delta = (model.float() - base.float()).flatten()
        count = delta.numel()
        if entry["density"] <= 0:
            delta = torch.zeros_like(delta)
        elif entry["density"] < 1:
            kept = max(1, int(entry["density"] * count))
            threshold = torch.sort(delta.abs(), descending=True).values[kept - 1]
            delta = torch.where(delta.abs() >= threshold, delta, 0)
        trimmed.append(delta.double())
    weights = [1.0 if unweighted else entry["weight"] for entry in each]
    votes = torch.stack(
        [w * (d.sign() if elect == "count" else d) for w, d in zip(weights, trimmed, strict=True)]
    )
    if elect == "count":
        votes = votes.sign()
    total = votes.sum(0)
    close = (total != 0) & (total.abs() < 1e-5 * votes.abs().sum(0))
    sign = torch.where(total >= 0, 1.0, -1.0)
    mixed, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for weight, entry, delta in zip(weights, each, trimmed, strict=True):
        agrees = torch.sign(weight * delta) == sign
        mixed += torch.where(agrees, entry["weight"] * delta, 0)
        divisor += torch.where(agrees, weight, 0)
    if normalize:
        mixed /= torch.where(divisor == 0, 1, divisor)
    return (base.double().flatten() + lam * mixed).reshape(base.shape), close.reshape(base.shape) & (
        elect == "mass"
    )


@pytest.mark.parametrize(("elect", "first"), [("mass", 5.0), ("count", -1.0)])
def test_mass_and_count_elect_differently(elect, first):
    OpCase(
        TiesOp,
        {"elect": elect},
        models=DELTAS,
        base=ZERO,
        each=dense(1, 1, 1),
        expected=[first, 1.5, 3.0],
        tolerance=0,
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=dense(0, 0, 0), gives=BASE),
            Identity(each=[{"density": 0}] * 3, gives=BASE),
            Identity(each=dense(0, 7, 0), gives=1),
        ],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_model_scope_of_one_tensor_is_tensor_scope_and_keeps_the_laws():
    models, base = random_models((70, 11), 2)
    each = [{"density": 0.3}, {"density": 0.6, "weight": 0.5}]
    wanted = run_op(TiesOp, {}, models, base, each=each)
    case = OpCase(
        TiesOp, {"scope": "model"}, models=models, base=base, each=each, expected=wanted, tolerance=0
    )
    case.check()


def test_float64_deltas_stay_if_they_round_to_the_threshold():
    """The third largest is 1 + 2^-23, an odd pattern: half-way up to it rounds away from it, to 1 + 2^-22."""
    ulp = 2.0**-23
    deltas = [9.0, 8.0, 1 + ulp, 1 + ulp / 2 + 1e-12, 1 + ulp / 2, 1.0]
    models, base = [torch.tensor(deltas, dtype=torch.float64)], torch.zeros(6, dtype=torch.float64)
    merged = run_op(TiesOp, {}, models, base, each=[{"density": 0.5}])
    assert merged.tolist() == [*deltas[:4], 0, 0]
    even = [9.0, 8.0, 1 + 2 * ulp, 1 + 1.5 * ulp, 1 + 1.5 * ulp - 1e-12, 1.0]
    merged = run_op(TiesOp, {}, [torch.tensor(even, dtype=torch.float64)], base, each=[{"density": 0.5}])
    assert merged.tolist() == [*even[:4], 0, 0]


def test_without_normalizing_agreeing_deltas_add_up():
    OpCase(
        TiesOp, {"normalize": False}, models=DELTAS, base=ZERO, each=dense(1, 1, 1), expected=[5.0, 3.0, 6.0]
    ).check()


@pytest.mark.parametrize(("weighting", "wanted"), [("weighted", -2.0), ("unweighted", 5.0)])
def test_mergekit_and_peft_weight_differently(weighting, wanted):
    """mergekit elects on weighted deltas and divides by their weights; PEFT on plain ones, by their number."""
    OpCase(
        TiesOp,
        {"weighting": weighting},
        models=[[5.0], [-2.0]],
        base=[0.0],
        each=dense(1, 3),
        expected=[wanted],
    ).check()


def test_a_negative_weight_turns_the_vote():
    """d = 5 and -4 elect +; only the first agrees and is divided by its weight; then both agree on -."""
    each = dense(1, -2)
    assert (
        run_op(TiesOp, {}, [torch.tensor([5.0]), torch.tensor([2.0])], torch.zeros(1), each=each).item() == 5
    )
    merged = run_op(TiesOp, {}, [torch.tensor([-5.0]), torch.tensor([2.0])], torch.zeros(1), each=each)
    assert merged.item() == (-5 - 4) / (1 - 2)


def test_agreeing_weights_that_cancel_divide_by_one():
    each = dense(1, -1)
    merged = run_op(TiesOp, {}, [torch.tensor([2.0]), torch.tensor([-3.0])], torch.zeros(1), each=each)
    assert merged.item() == 5.0


def test_a_sum_of_zero_elects_plus():
    for deltas in ([[2.0], [-2.0]], [[-2.0], [2.0]]):
        OpCase(TiesOp, models=deltas, base=[0.0], each=dense(1, 1), expected=[2.0]).check()


def test_half_of_four_elements_stay():
    OpCase(
        TiesOp,
        models=[[1.0, -4.0, 2.0, 3.0]],
        base=[0.0] * 4,
        each=[{"density": 0.5}],
        expected=[0, -4, 0, 3],
    ).check()


def test_what_equals_the_threshold_stays():
    case = OpCase(
        TiesOp,
        models=[[2.0, -2.0, 2.0, 1.0]],
        base=[0.0] * 4,
        each=[{"density": 0.25}],
        expected=[2, -2, 2, 0],
    )
    case.check()


@pytest.mark.parametrize(("density", "wanted"), [(0.2, [0, 2, 0, 0, 0]), (0.4, [0, 2, -2, 0, 0])])
def test_of_what_equals_the_threshold_the_first_may_stay(density, wanted):
    OpCase(
        TiesOp,
        {"ties": "index"},
        models=[[1.0, 2.0, -2.0, 2.0, 1.0]],
        base=[0.0] * 5,
        each=[{"density": density}],
        expected=wanted,
        tolerance=0,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_exactly_k_stay_wherever_the_blocks_end(dtype):
    """About 300,000 deltas of 25 magnitudes; a stable sort takes the lowest index first."""
    generator = torch.Generator().manual_seed(4)
    deltas = [torch.randint(-25, 26, (300, 1001), generator=generator).to(dtype) for _ in range(2)]
    base, each = torch.zeros(300, 1001, dtype=dtype), [{"density": 0.3}, {"density": 0.01, "weight": 0.5}]
    kept = []
    for delta, entry in zip(deltas, each, strict=True):
        order = delta.flatten().abs().float().sort(descending=True, stable=True).indices
        mask = torch.zeros(delta.numel(), dtype=dtype).scatter_(
            0, order[: int(entry["density"] * len(order))], 1
        )
        kept.append(delta * mask.view(delta.shape))
    dense_each = [{"density": 1}, {"density": 1, "weight": 0.5}]
    wanted = run_op(TiesOp, {}, kept, base, each=dense_each)
    for chunk in (None, 70_001):
        assert same_bytes(run_op(TiesOp, {"ties": "index"}, deltas, base, each=each, chunk=chunk), wanted)


def test_passes_are_added_only_where_equals_are_left_out():
    ties, params = TiesOp.implementation, TiesOp.params(ties="index")
    for delta, passes in (([1.0, 2.0, 2.0, 3.0], 3), ([1.0, 2.0, 3.0, 4.0], 1), ([0.0, 0.0, 0.0, 4.0], 1)):
        models, base = [torch.tensor(delta)], torch.zeros(4)
        signature, found, done = signature_of(TiesOp, models, base, [{"density": 0.5}]), None, 0
        whole = MemoryChunk(signature, models, base, 0, TiesOp)
        while ties.scan(signature, params, found, done) is not None:
            found = ties.solve(signature, params, ties.gather(whole, params, found), found)
            done += 1
        assert done == passes


def test_random_equals_stay_so_that_the_density_is_kept_on_average():
    """Half of all is above, three quarters should stay: half of the equals do, and which depends on the seed."""
    delta = torch.tensor([3.0, -2.0]).repeat(50_000)
    entry, base = [{"density": 0.75}], torch.zeros(100_000)
    merged = run_op(TiesOp, {"ties": "random"}, [delta], base, each=entry)
    assert torch.equal(merged[::2], delta[::2])
    assert set(merged[1::2].tolist()) == {0.0, -2.0}
    assert (merged[1::2] != 0).double().mean().item() == pytest.approx(0.5, abs=0.01)
    other = run_op(TiesOp, {"ties": "random"}, [delta], base, each=entry, seed=1)
    assert not torch.equal(merged, other)
    both = run_op(TiesOp, {"ties": "random", "normalize": False}, [delta] * 2, base, each=entry * 2)
    assert set(both.unique().tolist()) == {-4.0, -2.0, 0.0, 6.0}  # each model draws for itself


@pytest.mark.parametrize("ties", ["keep", "index", "random"])
@pytest.mark.parametrize("zero_sign", ["plus", "majority"])
@pytest.mark.parametrize("rescale", ["none", "l1"])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_the_laws_hold_whatever_becomes_of_equals(ties, zero_sign, rescale, scope):
    generator = torch.Generator().manual_seed(5)
    models = [torch.randint(-3, 4, (9, 11), generator=generator).float() for _ in range(3)]
    each = [{"density": 0.5}, {"density": 0.2, "weight": -1.0}, {"density": 0.7}]
    params = {"ties": ties, "zero_sign": zero_sign, "rescale": rescale, "scope": scope}
    base = torch.zeros(9, 11)
    wanted = run_op(TiesOp, params, models, base, each=each)
    OpCase(TiesOp, params, models=models, base=base, each=each, expected=wanted, tolerance=0).check()


def test_l1_restores_what_equals_that_are_left_out_took():
    """Σ|τ| is 7: the 2 that stays becomes 7."""
    OpCase(
        TiesOp,
        {"ties": "index", "rescale": "l1"},
        models=[[2.0, -2.0, 2.0, 1.0]],
        base=[0.0] * 4,
        each=[{"density": 0.25}],
        expected=[7, 0, 0, 0],
    ).check()


def test_in_a_model_equals_stay_by_the_tensors_names():
    """Of four equals in two tensors three stay: both of `a`, though `b` is gathered first."""
    models = {"m": {"b": torch.tensor([2.0, 2.0]), "a": torch.tensor([2.0, -2.0, 1.0])}}
    base = {"b": torch.zeros(2), "a": torch.zeros(3)}
    merged = run_model_op(TiesOp, {"scope": "model", "ties": "index"}, models, base, {"m": {"density": 0.6}})
    assert merged["a"].tolist() == [2, -2, 0]
    assert merged["b"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("second", "zero_sign", "first"),
    [
        ([-2.0, -1.0, -4.0], "plus", 2),
        ([-2.0, -1.0, -4.0], "majority", -2),  # - is elected twice, + never
        ([-2.0, 5.0, 4.0], "majority", 2),
        ([-2.0, 5.0, -4.0], "majority", 2),  # a draw
    ],
)
def test_where_the_sum_is_zero_the_majority_may_decide(second, zero_sign, first):
    models = [[2.0, -1.0, -1.0], second]
    merged = run_op(
        TiesOp, {"zero_sign": zero_sign}, [torch.tensor(m) for m in models], torch.zeros(3), each=dense(1, 1)
    )
    assert merged[0].item() == first
    assert (merged[1:].sign() == (torch.tensor(models).sum(0)[1:]).sign()).all()


def test_a_majority_counts_what_was_trimmed_weighted_and_turned():
    """Trimmed to one each, only the first and the last elements have votes; a negative weight turns them."""
    models = [torch.tensor([3.0, 1.0, 1.0, 0.0, 0.0]), torch.tensor([3.0, 0.0, 0.0, 0.0, 2.0])]
    each = [{"density": 0.2, "weight": 1.0}, {"density": 0.4, "weight": -1.0}]
    merged = run_op(
        TiesOp, {"zero_sign": "majority", "normalize": False}, models, torch.zeros(5), each=each, chunk=2
    )
    assert merged.tolist() == [-3, 0, 0, 0, -2]  # 3 - 3 is 0, the last elects -


def test_in_a_model_all_tensors_make_the_majority():
    models = {"x": {"a": torch.tensor([2.0]), "b": torch.tensor([-1.0, -1.0])}}
    models["y"] = {"a": torch.tensor([-2.0]), "b": torch.tensor([-1.0, -1.0])}
    base, each = {"a": torch.zeros(1), "b": torch.zeros(2)}, {model: {"density": 1} for model in "xy"}
    merged = run_model_op(TiesOp, {"scope": "model", "zero_sign": "majority"}, models, base, each)
    assert merged["a"].item() == -2
    assert (
        run_op(
            TiesOp, {"zero_sign": "majority"}, {m: models[m]["a"] for m in models}, base["a"], each=each
        ).item()
        == 2
    )


def test_a_threshold_of_zero_keeps_everything():
    OpCase(
        TiesOp, models=[[0.0, 0.0, 0.0, 1.0]], base=[1.0] * 4, each=[{"density": 0.5}], expected=[0, 0, 0, 1]
    ).check()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize(("density", "gives"), [(0, BASE), (0.01, 0), (0.5, 0), (1, 0)])
def test_one_element_is_kept_whole_or_not_at_all(shape, density, gives):
    model, base = torch.full(shape, 0.3), torch.full(shape, 7.1)
    merged = run_op(TiesOp, {}, [model], base, each=[{"density": density}])
    assert same_bytes(merged, base if gives == BASE else model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"elect": "count"},
        {"normalize": False, "lambda": 0.3},
        {"weighting": "unweighted"},
        {"elect": "count", "weighting": "unweighted"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "each",
    [
        [{"weight": 1.0, "density": 0.2}] * 3,
        [{"weight": 0.5, "density": 0.3}, {"weight": 2.0, "density": 1.0}, {"weight": 1.0, "density": 0.01}],
        [{"weight": 1.0, "density": 0.5}, {"weight": -0.5, "density": 0.7}, {"weight": 0.3, "density": 0.0}],
    ],
    ids=["equal", "uneven", "negative"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (33, 65)])
def test_it_equals_the_naive_reference(shape, dtype, each, settings):
    models, base = random_models(shape, len(each), dtype)
    names = {"elect": "elect", "normalize": "normalize", "lambda": "lam"}
    options = {names[key]: value for key, value in settings.items() if key in names}
    wanted, close = naive(models, base, each, unweighted=settings.get("weighting") == "unweighted", **options)
    wide = [model.float() for model in models]
    merged = run_op(TiesOp, settings, wide, base.float(), each=each, chunk=500)
    assert close.sum() <= 0.01 * close.numel()
    assert torch.allclose(merged.double()[~close], wanted[~close], atol=2e-6)
    stored = run_op(TiesOp, settings, models, base, each=each)
    assert stored.dtype == dtype
    if dtype != torch.float64:  # one rounding of the float32 result
        assert same_bytes(stored, merged.to(dtype))
    else:
        assert torch.allclose(stored[~close], wanted[~close], atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.999])
def test_large_tensors_are_sampled_first_and_come_out_exact(density, dtype):
    models, base = random_models((300, 1000), 2, dtype)
    each = [{"weight": 1.0, "density": density}, {"weight": 0.5, "density": density / 2}]
    wanted, close = naive(models, base, each)
    merged = run_op(TiesOp, {}, [m.float() for m in models], base.float(), each=each, chunk=70_001)
    assert torch.allclose(merged.double()[~close], wanted[~close], atol=2e-6)
    signature = signature_of(TiesOp, models, base, each)
    assert TiesOp.implementation.scan(signature, TiesOp.params(), None, 0) is Scan.SAMPLE


def test_small_tensors_are_counted_in_one_pass_and_dense_ones_in_none():
    models, base = random_models((1000,), 2)
    ties = TiesOp.implementation
    sparse = signature_of(TiesOp, models, base, [{"density": 0.5}] * 2)
    assert ties.scan(sparse, TiesOp.params(), None, 0) is Scan.ALL
    for densities in [(1, 1), (0, 1), (0, 0)]:
        each = [{"density": density} for density in densities]
        assert ties.scan(signature_of(TiesOp, models, base, each), TiesOp.params(), None, 0) is None


def test_bf16_deltas_tie_massively_and_the_share_kept_is_at_least_the_density():
    models, base = random_models((400, 400), 1, torch.bfloat16, scale=0.02)
    each = [{"density": 0.3}]
    merged = run_op(TiesOp, {}, [m.float() for m in models], base.float(), each=each)
    kept = (merged != base.float()).double().mean().item()
    delta = (models[0].float() - base.float()).abs().flatten()
    assert delta.unique().numel() < 0.1 * delta.numel()
    assert 0.3 <= kept < 0.35


def test_a_duplicate_of_a_model_changes_nothing():
    models, base = random_models((50, 20), 1)
    each = [{"density": 0.4}]
    once = run_op(TiesOp, {}, models, base, each=each)
    assert torch.allclose(run_op(TiesOp, {}, models * 3, base, each=each * 3), once, atol=1e-7)


def test_model_scope_trims_the_whole_model_at_once():
    """Global top 20 % where layers differ in scale: nothing of the small ones is left."""
    generator = torch.Generator().manual_seed(0)
    scales = {"a": 0.3, "b": 1.0, "c": 1.0, "d": 3.0}
    tuned = {name: scale * torch.randn(20_000, generator=generator) for name, scale in scales.items()}
    base = {name: torch.zeros(20_000) for name in scales}
    merged = run_model_op(TiesOp, {"scope": "model"}, {"m": tuned}, base, {"m": {"density": 0.2}})
    shares = {name: (values != 0).double().mean().item() for name, values in merged.items()}
    assert sum(shares.values()) / 4 == pytest.approx(0.2, abs=1e-4)
    assert [round(share, 2) for share in shares.values()] == [0.0, 0.1, 0.1, 0.59]


@pytest.mark.parametrize("sizes", [(7, 30), (140_000, 3, 5000)])
def test_model_scope_equals_tensor_scope_of_one_concatenated_tensor(sizes):
    names = [f"t{index}" for index in range(len(sizes))]
    parts = {name: random_models((size,), 2) for name, size in zip(names, sizes, strict=True)}
    models = {model: {name: parts[name][0][index] for name in names} for index, model in enumerate("ab")}
    base = {name: parts[name][1] for name in names}
    each = {"a": {"density": 0.3}, "b": {"weight": 0.5, "density": 0.1}}
    merged = run_model_op(TiesOp, {"scope": "model"}, models, base, each)
    whole = run_op(
        TiesOp,
        {},
        {model: torch.cat([models[model][name] for name in names]) for model in "ab"},
        torch.cat([base[name] for name in names]),
        each=each,
    )
    assert same_bytes(torch.cat([merged[name] for name in names]), whole)


def test_l1_multiplies_what_stays_so_that_the_sum_of_magnitudes_does():
    """Of 1 to 4 the 4 stays and becomes 10; the other model keeps everything and is left alone."""
    OpCase(
        TiesOp,
        {"rescale": "l1", "normalize": False},
        models=[[1.0, -2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]],
        base=[0.0] * 4,
        each=[{"density": 0.25}, {"density": 1}],
        expected=[1, 1, 1, 11],
        scale_equivariant=True,
        permutable=True,
    ).check()


@pytest.mark.parametrize("settings", [{}, {"weighting": "unweighted"}, {"elect": "count"}], ids=str)
def test_deltas_vote_as_they_are_rescaled(settings):
    """Rescaling is part of the trim: ties of rescaled deltas is ties of deltas that were rescaled before."""
    models, base = random_models((40, 30), 2)
    deltas = [model - base for model in models]
    sparse = [run_op(TiesOp, {"rescale": "l1"}, [d], 0 * base, each=[{"density": 0.3}]) for d in deltas]
    each = [{"weight": 1.0, "density": 1}, {"weight": 0.4, "density": 1}]
    wanted = run_op(TiesOp, settings, sparse, 0 * base, each=each)
    trimmed = [entry | {"density": 0.3} for entry in each]
    made = run_op(TiesOp, settings | {"rescale": "l1"}, deltas, 0 * base, each=trimmed, chunk=100)
    assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-7)


def test_l1_sums_beyond_the_range_of_half_precision_stay_finite():
    delta = torch.linspace(0.5, 1.5, 200_000).half()
    merged = run_op(TiesOp, {"rescale": "l1"}, [delta], torch.zeros_like(delta), each=[{"density": 0.5}])
    assert merged.dtype == torch.float16
    assert merged.double().sum().item() == pytest.approx(200_000, rel=1e-3)


def test_model_scope_rescales_over_the_whole_model():
    """Σ|τ| is 10 in all, of which 4 and 3 stay: each becomes 10/7 of itself, wherever it lies."""
    models = {"m": {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([2.0, 3.0])}}
    base = {"a": torch.zeros(2), "b": torch.zeros(2)}
    settings = {"scope": "model", "rescale": "l1"}
    merged = run_model_op(TiesOp, settings, models, base, {"m": {"density": 0.5}})
    assert merged["a"].tolist() == pytest.approx([40 / 7, 0])
    assert merged["b"].tolist() == pytest.approx([0, 30 / 7])


def test_a_model_counts_only_where_it_has_the_tensor():
    models, base = random_models((40,), 2)
    each = [{"weight": 1.0, "density": 0.5}]
    wanted, _ = naive(models[:1], base, each)
    assert torch.allclose(run_op(TiesOp, {}, models[:1], base, each=each).double(), wanted, atol=1e-6)


def test_model_scope_refuses_models_that_lack_a_tensor():
    with pytest.raises(OpError) as error:
        TiesOp.implementation.fold([None, None], [None])
    assert str(error.value) == (
        "scope: model needs every tensor in every model, some lack one; set scope: tensor or `missing: base`"
    )


def test_a_density_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        run_op(TiesOp, {}, [torch.ones(1)], torch.ones(1), each=[{"density": 1.5}])


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(TiesOp, {}, [torch.ones(1)], each=[{"density": 1}])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
