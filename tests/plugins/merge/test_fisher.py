"""merge.fisher against numbers by hand, its laws, and float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.ops import Split
from surgery.tensors import Role, TensorSpec
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.fisher import FisherOp

EACH = [{"fisher": "f"}, {"fisher": "g"}]


def case(models, fisher, params=None, **more):
    return OpCase(FisherOp, params or {}, models=models, each=EACH, companions={"fisher": fisher}, **more)


def reference(models, fisher, weights):
    """Σ w·F·θ / Σ w·F in float64; the weighted mean where nothing is known."""
    total = sum(w * f.double() for w, f in zip(weights, fisher, strict=True))
    top = sum(w * f.double() * m.double() for w, f, m in zip(weights, fisher, models, strict=True))
    mean = sum(w * m.double() for w, m in zip(weights, models, strict=True)) / sum(weights)
    return torch.where(total == 0, mean, top / total)


def draws(count, *shape):
    generator = torch.Generator().manual_seed(count)
    models = [torch.randn(shape, generator=generator) for _ in range(count)]
    return models, [torch.rand(shape, generator=generator).pow(8) for _ in range(count)]


def test_information_of_one_and_three_draws_three_quarters_of_the_way():
    case([[0.0], [4.0]], [[1.0], [3.0]], expected=[3.0], scale_equivariant=True).check()


def test_equal_information_is_the_mean_and_a_model_that_knows_nothing_has_no_say():
    case(
        [[1.0, 1.0, 8.0], [3.0, 5.0, 2.0]], [[7.0, 0.0, 2.0], [7.0, 0.3, 0.0]], expected=[2.0, 5.0, 8.0]
    ).check()


def test_where_no_model_knows_anything_the_mean_is_weighted():
    """4·1/(1+3) + 0 = 3 of the weights 1 and 3; where there is information it is 4·(3·1)/(1·3+3·1) = 2."""
    each = [{"fisher": "f"}, {"fisher": "g", "weight": 3.0}]
    models, fisher = [[0.0, 0.0], [4.0, 4.0]], [[0.0, 3.0], [0.0, 1.0]]
    OpCase(FisherOp, models=models, each=each, companions={"fisher": fisher}, expected=[3.0, 2.0]).check()


def test_a_tensor_that_one_model_has_no_information_of_is_averaged():
    case([[1.0, 2.0], [3.0, 8.0]], [None, [0.0, 1.0]], expected=[2.0, 5.0]).check()
    case([[1.0, 2.0], [3.0, 8.0]], [None, None], {"normalize": True}, expected=[2.0, 5.0]).check()


def test_small_information_of_small_changes_counts():
    """1e-38 times 4e-4 has three digits left in float32."""
    merged = run_op(
        FisherOp,
        {},
        [torch.tensor([0.0]), torch.tensor([4e-4])],
        each=EACH,
        companions={"fisher": (torch.tensor([2e-38]), torch.tensor([6e-38]))},
    )
    assert merged.item() == pytest.approx(3e-4, rel=1e-6)


def test_the_floor_is_the_least_that_counts():
    """max(F, 0.5) is 0.5 and 1.5: a quarter and three quarters."""
    case([[0.0], [4.0]], [[0.001], [1.5]], {"floor": 0.5}, expected=[3.0]).check()


@pytest.mark.parametrize("scope", ["tensor", "layer", "model"])
def test_norms_make_scales_equal(scope):
    """[3, 4]/5 and [400, 300]/500: 0.6 against 0.8, and 0.8 against 0.6."""
    models, fisher = [[0.0, 0.0], [7.0, 7.0]], [[3.0, 4.0], [400.0, 300.0]]
    case(models, fisher, {"normalize": True, "scope": scope}, expected=[4.0, 3.0]).check()


def test_information_of_nothing_has_no_norm_to_divide_by():
    case([[1.0], [5.0]], [[0.0], [3.0]], {"normalize": True}, expected=[5.0]).check()


def test_models_that_agree_keep_their_bytes():
    models, fisher = draws(3, 50)
    merged = run_op(
        FisherOp, {}, [models[0]] * 3, each=[*EACH, EACH[0]], companions={"fisher": tuple(fisher)}
    )
    assert same_bytes(merged, models[0])


def test_a_model_whose_weight_alone_is_not_zero_is_copied():
    case(
        [[1.5], [2.0]], [[1.0], [1.0]], identity=[Identity(each=[EACH[0], {"fisher": "g", "weight": 0}])]
    ).check()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_equals_float64(count, normalize):
    models, fisher = draws(count, 37, 11)
    weights = [1.0, 0.5, 2.0, 0.0, 1.5][:count]
    each = [{"fisher": "f", "weight": weight} for weight in weights]
    counted = [f.double() / (f.double().norm() if normalize else 1) for f in fisher]
    OpCase(
        FisherOp,
        {"normalize": normalize},
        models=models,
        each=each,
        companions={"fisher": fisher},
        expected=reference(models, counted, weights),
        permutable=True,
    ).check()


def test_numbers_as_small_as_gradients_squared_count():
    models, fisher = draws(3, 400)
    tiny = [(f * 1e-14) for f in fisher]
    each = [{"fisher": "f"}] * 3
    expected = reference(models, tiny, [1.0] * 3)
    OpCase(FisherOp, models=models, each=each, companions={"fisher": tiny}, expected=expected).check()


numbers = st.floats(0, 1e6, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-8, 8, width=32), numbers), min_size=2, max_size=4))
def test_the_result_lies_among_the_models(pairs):
    models, fisher = [torch.tensor([t]) for t, _ in pairs], tuple(torch.tensor([f]) for _, f in pairs)
    merged = float(
        run_op(FisherOp, {}, models, each=[{"fisher": "f"}] * len(pairs), companions={"fisher": fisher})
    )
    slack = 1e-5 * max(abs(float(model)) for model in models)
    assert min(map(float, models)) - slack <= merged <= max(map(float, models)) + slack


def test_negative_information_is_none():
    with pytest.raises(OpError) as error:
        run_op(
            FisherOp,
            {},
            [torch.ones(2)] * 2,
            each=EACH,
            companions={"fisher": (torch.tensor([1.0, -2.5]),) * 2},
        )
    assert str(error.value) == (
        "w: `fisher` holds -2.5, Fisher information is a mean of squares and never negative; "
        "check what the model's entry names"
    )


def test_weights_of_nothing_are_refused():
    each = [{"fisher": "f", "weight": 0}] * 2
    with pytest.raises(OpError, match=r"^w: the weights of all models are 0; change one$"):
        run_op(FisherOp, {}, [torch.ones(2)] * 2, each=each)


@pytest.mark.parametrize(
    ("params", "split"),
    [
        ({}, Split.ELEMENT),
        ({"scope": "tensor"}, Split.ELEMENT),
        ({"normalize": True, "scope": "tensor"}, Split.REDUCE),
        ({"normalize": True, "scope": "layer"}, Split.MODEL),
        ({"normalize": True}, Split.MODEL),
    ],
)
def test_only_norms_need_another_pass(params, split):
    assert FisherOp.split_of(FisherOp.params.model_validate(params)) is split


def test_it_wants_a_number_for_each_weight():
    from surgery.ops import Signature

    spec = TensorSpec("w", (2, 3, 4), "BF16")
    signature = Signature("w", (spec,), None, (), Role(), spec.numel)
    assert FisherOp.companions["fisher"].shape(signature, FisherOp.params()) == (2, 3, 4)
