"""merge.consensus: masks and votes by hand, and against a plain float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.ops import BASE, Split
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.consensus import ConsensusOp
from surgery_merge.ties import TiesOp

# Their sum is [1.2, 1.1]. With λ = 0.5: 1 > 0.5·0.2 but 0.1 < 0.5·1.0, so each model needs one element.
DELTAS = [[1.0, 0.1], [0.2, 1.0]]
HALF = {"mask_lambda": 0.5}


@pytest.mark.parametrize(
    ("k", "wanted"), [(0, [1.2, 1.1]), (1, [1.2, 1.1]), (2, [0.0, 0.0])], ids=["all", "anyone", "both"]
)
def test_two_models_that_need_one_element_each(k, wanted):
    OpCase(
        ConsensusOp,
        HALF | {"k": k},
        models=DELTAS,
        base=[0.0, 0.0],
        each=[{}, {}],
        expected=wanted,
        identity=[Identity({"lambda": 0}, gives=BASE)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_one_model_needs_all_that_it_changed():
    base, model = torch.tensor([0.3, 7.1]), torch.tensor([0.7, 7.1])
    case = {"base": base, "each": [{}]}
    for k in (0, 1):
        assert same_bytes(run_op(ConsensusOp, {"k": k}, [model], **case), model)
        assert run_op(ConsensusOp, {"k": k, "lambda": 0.5}, [model], **case).tolist() == pytest.approx(
            [0.5, 7.1]
        )
    assert same_bytes(run_op(ConsensusOp, {"k": 1, "merged": "ties"}, [base], **case), base)


def test_a_model_may_have_a_mask_of_its_own():
    """0.1 > 0.05·1.0: now the first model needs the second element too, and lambda halves it."""
    each = [{"mask_lambda": 0.05}, {}]
    OpCase(
        ConsensusOp,
        HALF | {"lambda": 0.5},
        models=DELTAS,
        base=[0.0, 0.0],
        each=each,
        expected=[0.0, 0.55],
    ).check()


def test_what_only_equals_the_rest_is_not_needed():
    """|1| > 1·|2 - 1| is false for both."""
    case = {"models": [[1.0], [1.0]], "base": [0.0], "each": [{}, {}]}
    OpCase(ConsensusOp, {"mask_lambda": 1.0, "k": 1}, **case, expected=[0.0]).check()
    OpCase(ConsensusOp, {"mask_lambda": 0.9, "k": 2}, **case, expected=[2.0]).check()


def test_the_mean_may_be_masked_instead_of_the_sum():
    """Mean [2, 0]: |3| > 0.5·1 and |1| > 0.5·1 agree, |3| > 0.5·3 twice as well, but nothing is left there."""
    OpCase(
        ConsensusOp,
        HALF | {"normalize": True},
        models=[[3.0, 3.0], [1.0, -3.0]],
        base=[0.0, 0.0],
        each=[{}, {}],
        expected=[2.0, 0.0],
    ).check()


def test_a_ties_merge_may_be_masked():
    """Half of each delta stays: [4, 0, 0, 3] and [0, 2, 0, 3]; their sum is [4, 2, 0, 6]; both need the last."""
    OpCase(
        ConsensusOp,
        HALF | {"merged": "ties"},
        models=[[4.0, 0.1, 0.2, 3.0], [0.1, 2.0, 0.2, 3.0]],
        base=[0.0] * 4,
        each=[{"density": 0.5}] * 2,
        expected=[0.0, 0.0, 0.0, 6.0],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_model_scope_of_one_tensor_is_tensor_scope():
    models, base = random_models((30, 11), 3)
    each = [{"density": density} for density in (0.2, 0.5, 1.0)]
    settings = {"merged": "ties", "rescale": "l1", "mask_lambda": 0.3}
    wanted = run_op(ConsensusOp, settings, models, base, each=each)
    case = {"models": models, "base": base, "each": each, "expected": wanted, "tolerance": 0}
    OpCase(ConsensusOp, settings | {"scope": "model"}, **case).check()


def random_models(shape, count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(math.prod(shape) + count)
    base = torch.randn(shape, generator=generator).to(dtype)
    return [(base + 0.02 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)], base


def test_keeping_everything_is_a_ties_merge():
    models, base = random_models((40, 7), 3)
    each = [{"density": density} for density in (0.2, 0.5, 1.0)]
    for normalize in (True, False):
        settings = {"k": 0, "merged": "ties", "normalize": normalize, "lambda": 0.7}
        masked = run_op(ConsensusOp, settings, models, base, each=each)
        assert same_bytes(
            masked, run_op(TiesOp, {"normalize": normalize, "lambda": 0.7}, models, base, each=each)
        )


def naive(models, base, factors, k, lam):
    """Return the result in float64, and where a mask is too close to tell."""
    deltas = [(model - base).double() for model in models]
    merged = sum(deltas)
    rests = [factor * (merged - delta).abs() for factor, delta in zip(factors, deltas, strict=True)]
    near = [(delta.abs() - rest).abs() < 1e-7 for delta, rest in zip(deltas, rests, strict=True)]
    votes = sum((delta.abs() > rest).int() for delta, rest in zip(deltas, rests, strict=True))
    return base.double() + lam * merged * (votes >= k), torch.stack(near).any(0)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("shape", [(), (1,), (33, 65)])
def test_it_equals_the_formula_in_float64(shape, k):
    models, base = random_models(shape, 4)
    own = [None, 0.2, None, 0.6]
    wanted, near = naive(models, base, [factor or 0.4 for factor in own], k, 0.3)
    each = [{"mask_lambda": factor} for factor in own]
    merged = run_op(ConsensusOp, {"k": k, "lambda": 0.3}, models, base, each=each, chunk=500)
    assert near.sum() <= 0.01 * near.numel()
    assert torch.allclose(merged.double()[~near], wanted[~near], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_stored_dtypes_are_rounded_once(dtype):
    models, base = random_models((20, 30), 3, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = run_op(ConsensusOp, {}, [m.to(wide) for m in models], base.to(wide), each=[{}] * 3)
    assert same_bytes(run_op(ConsensusOp, {}, models, base, each=[{}] * 3), exact.to(dtype))


@given(st.integers(0, 3), st.floats(0, 2))
@settings(max_examples=30, deadline=None)
def test_more_agreement_keeps_less(k, factor):
    models, base = random_models((60,), 3)
    params = {"mask_lambda": factor, "k": k}
    kept = run_op(ConsensusOp, params, models, base, each=[{}] * 3) != base
    if k > 0:
        more = run_op(ConsensusOp, params | {"k": k - 1}, models, base, each=[{}] * 3) != base
        assert bool((more | ~kept).all())


def test_a_sum_is_read_once_and_a_ties_merge_is_searched():
    assert ConsensusOp.split_of(ConsensusOp.params()) is Split.ELEMENT
    assert ConsensusOp.split_of(ConsensusOp.params(merged="ties")) is Split.REDUCE
    assert ConsensusOp.split_of(ConsensusOp.params(merged="ties", scope="layer")) is Split.MODEL


@pytest.mark.parametrize(
    ("params", "each", "base", "text"),
    [
        ({"k": 3}, {}, [0.0], "k: 3 models must agree and there are 2; set k to their number or less"),
        (
            {"rescale": "l1"},
            {},
            [0.0],
            "density, scope and rescale mean nothing to merged: sum; remove them or set merged: ties",
        ),
        (
            {},
            {"density": 0.5},
            [0.0],
            "density, scope and rescale mean nothing to merged: sum; remove them or set merged: ties",
        ),
        ({}, {}, None, "the base lacks this tensor, a delta needs it; leave it out with `where:`"),
    ],
)
def test_what_is_wrong_is_found_before_work(params, each, base, text):
    below = None if base is None else torch.tensor(base)
    with pytest.raises(OpError) as error:
        run_op(ConsensusOp, params, [torch.ones(1)] * 2, below, each=[each] * 2)
    assert str(error.value) == f"w: {text}"
