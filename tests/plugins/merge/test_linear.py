"""merge.linear: numbers by hand, what is copied, what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.testing import Identity, OpCase, run_op
from surgery_merge.linear import linear


def weights(*numbers):
    return [{"weight": number} for number in numbers]


def average(models, numbers, **settings):
    return run_op(linear, settings.pop("params", {}), models, each=weights(*numbers), **settings)


def test_weights_one_and_three():
    case = OpCase(
        linear,
        models=[[1.0, 2.0], [3.0, 6.0]],
        each=weights(1, 3),
        expected=[2.5, 5.0],
        identity=[Identity(each=weights(1, 0), gives=0), Identity(each=weights(0, 1), gives=1)],
        scale_equivariant=True,
        permutable=True,
    )
    case.check()


def test_without_normalizing_it_is_the_weighted_sum():
    OpCase(
        linear,
        {"normalize": False},
        models=[[[1.0], [2.0]], [[3.0], [6.0]]],
        each=weights(1, 3),
        expected=[[10.0], [20.0]],
        identity=[Identity(each=weights(1, 0), gives=0)],
    ).check()


def test_what_a_model_learned_is_put_onto_another_base():
    """A chat vector: 10 + (3 - 1) and 20 + (5 - 6)."""
    models = [torch.tensor([10.0, 20.0]), torch.tensor([3.0, 5.0]), torch.tensor([1.0, 6.0])]
    assert average(models, [1, 1, -1], params={"normalize": False}).tolist() == [12, 19]


@pytest.mark.parametrize("numbers", [(0.3, 0.7), (0.1, 0.2, 0.3), (2, -1, 0.5), (1, 1, 1, 1), (0.2, 0.2)])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (7, 301)])
def test_it_equals_the_mean_in_float64(shape, numbers):
    models = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(len(numbers))]
    wanted = sum(w * m.double() for w, m in zip(numbers, models, strict=True)) / sum(numbers)
    OpCase(linear, models=models, each=weights(*numbers), expected=wanted, chunks=(1, 64, 999)).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_identical_models_give_their_bytes_in_16_bits(dtype, count):
    model = torch.randn(5000, generator=torch.Generator().manual_seed(1)).to(dtype)
    merged = average([model] * count, [0.7] * count)
    assert merged.dtype == dtype
    assert torch.equal(merged, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numbers", [(1, 1), (1, 1, 1), (0.3, 0.7), (0, 2, 5), (3, -1, 0.1, 0.7)])
def test_what_models_agree_on_stays_in_32_and_64_bits(dtype, numbers):
    """Added up and divided, every sixth element would be another."""
    frozen = torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=dtype)
    assert torch.equal(average([frozen] * len(numbers), numbers), frozen)


def test_a_model_that_hardly_counts_does_not_cost_the_others_their_digits():
    """From the first model on, 1e8, the differences of the others would be good to 8."""
    models = [torch.tensor([1e8]), torch.tensor([1.0]), torch.tensor([2.0])]
    assert average(models, [1e-9, 1, 1]).item() == pytest.approx(1.55, rel=1e-6)


def test_weight_zero_leaves_a_model_out_byte_by_byte():
    models = [torch.tensor([0.1, -0.0]), torch.tensor([0.3, -0.0])]
    assert torch.equal(average(models, [0, 3]).view(torch.int32), models[1].view(torch.int32))


def test_it_equals_the_running_mean_of_a_list_of_checkpoints():
    models = [torch.randn(100, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    mean = models[0].double()
    for count, model in enumerate(models[1:], start=2):
        mean += (model - mean) / count
    assert torch.allclose(average(models, [1] * 6).double(), mean, atol=1e-6)


def test_half_precision_inputs_do_not_overflow():
    models = [torch.tensor([60000.0], dtype=torch.float16)] * 2
    assert average(models, [1, 1]).item() == 60000


def test_models_are_summed_in_the_order_of_their_names():
    a, b, c = (torch.randn(1000, generator=torch.Generator().manual_seed(i)) for i in range(3))
    each = {"a": {"weight": 0.1}, "b": {"weight": 0.2}, "c": {"weight": 0.3}}
    one = run_op(linear, {}, {"a": a, "b": b, "c": c}, each=each)
    other = run_op(linear, {}, {"c": c, "b": b, "a": a}, each=each)
    assert torch.equal(one, other)


def test_a_ramp_gives_the_weight_at_its_depth():
    merged = average(
        [torch.ones(1), torch.zeros(1)], [[1e-5, 1e-3], 0.5], params={"normalize": False}, depth=0.5
    )
    assert merged.item() == pytest.approx(5.05e-4)


def test_nan_in_a_model_of_weight_zero_shows():
    merged = average([torch.tensor([1.0]), torch.tensor([float("nan")]), torch.tensor([2.0])], [1, 0, 1])
    assert torch.isnan(merged).all()


def test_weights_that_cancel_are_refused():
    with pytest.raises(OpError) as error:
        average([torch.ones(2), torch.ones(2)], [0.5, -0.5])
    assert str(error.value) == (
        "w: the weights 0.5, -0.5 sum to 0, which normalize divides by; change one or set normalize: false"
    )


def test_a_weight_must_be_given():
    with pytest.raises(ValueError, match=r"weight\n  Field required"):
        run_op(linear, {}, [torch.ones(1)], each=[{}])


@given(st.floats(-4, 4), st.floats(0.1, 4))
@settings(max_examples=50, deadline=None)
def test_the_average_of_two_lies_where_the_weights_say(x, w):
    merged = average([torch.tensor([x]), torch.tensor([0.0])], [w, 1.0])
    assert merged.item() == pytest.approx(x * w / (w + 1), abs=1e-5)
