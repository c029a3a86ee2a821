"""merge.task_arithmetic: the base plus what the models learned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.task_arithmetic import task_arithmetic


def test_two_task_vectors_at_three_tenths():
    OpCase(
        task_arithmetic,
        {"lambda": 0.3},
        models=[[1.2], [0.9]],
        base=[1.0],
        each=[{}, {}],
        expected=[1.03],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity({"lambda": 1}, each=[{"weight": 1}, {"weight": 0}], gives=0),
            Identity({"lambda": 0.5}, each=[{"weight": 0}, {"weight": 2}], gives=1),
            Identity({"lambda": 0.5}, each=[{"weight": 0}, {"weight": 0}], gives=BASE),
        ],
        scale_equivariant=True,
        permutable=True,
    ).check()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", [(1.0,), (0.7,), (0.7, -0.2), (1, 1, 1), (0.2, 0.3, 0.4, 0.5)])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (11, 201)])
def test_it_equals_the_sum_in_float64(shape, weights, normalize):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=generator)
    models = [base + 0.01 * torch.randn(shape, generator=generator) for _ in weights]
    learned = sum(w * (m - base).double() for w, m in zip(weights, models, strict=True))
    wanted = base.double() + 0.8 * learned / (sum(weights) if normalize else 1)
    OpCase(
        task_arithmetic,
        {"lambda": 0.8, "normalize": normalize},
        models=models,
        base=base,
        each=[{"weight": weight} for weight in weights],
        expected=wanted,
        chunks=(1, 100),
    ).check()


@given(st.floats(-2, 2), st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_the_merged_delta_is_linear_in_the_deltas(c, tau):
    base = torch.zeros(1)
    once = run_op(task_arithmetic, {"lambda": 0.5}, [torch.tensor([tau])], base, each=[{}])
    scaled = run_op(task_arithmetic, {"lambda": 0.5}, [torch.tensor([c * tau])], base, each=[{}])
    assert scaled.item() == pytest.approx(c * once.item(), abs=1e-5)


def test_adding_one_model_whole_gives_its_bytes_where_arithmetic_would_not():
    base, model = torch.tensor([1e8]), torch.tensor([1.0])
    assert (base + (model - base)).item() != 1.0
    assert same_bytes(run_op(task_arithmetic, {}, [model], base, each=[{}]), model)


def test_a_negative_weight_unlearns():
    merged = run_op(task_arithmetic, {}, [torch.tensor([3.0])], torch.tensor([1.0]), each=[{"weight": -1}])
    assert merged.item() == -1.0


def test_bf16_is_rounded_once():
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    models = [torch.tensor([1.0078125], dtype=torch.bfloat16)] * 3
    merged = run_op(task_arithmetic, {"lambda": 0.2}, models, base, each=[{}] * 3)
    assert merged.dtype == torch.bfloat16
    assert merged.item() == 1.0078125  # 1 + 0.6 ulp; three additions in bf16 would give 1


def test_weights_that_cancel_are_refused_only_when_they_divide():
    models, base = [torch.ones(1), torch.ones(1)], torch.zeros(1)
    each = [{"weight": 1}, {"weight": -1}]
    assert run_op(task_arithmetic, {}, models, base, each=each).item() == 0
    with pytest.raises(OpError) as error:
        run_op(task_arithmetic, {"normalize": True}, models, base, each=each)
    assert str(error.value) == (
        "w: the weights 1, -1 sum to 0, which normalize divides by; change one or set normalize: false"
    )


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(task_arithmetic, {}, [torch.ones(1)], each=[{}])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
