"""merge.magmax: the largest change of each element, by hand and against a stack of all changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.magmax import magmax

WHOLE = {"lambda": 1.0}


def test_each_element_takes_the_larger_change():
    OpCase(
        magmax,
        WHOLE,
        models=[[3.0, -1.0], [-2.0, 4.0]],
        base=[0.0, 0.0],
        expected=[3.0, 4.0],
        tolerance=0,
        identity=[Identity({"lambda": 0}, gives=BASE)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_lambda_scales_what_was_chosen():
    OpCase(magmax, models=[[4.0], [-6.0]], base=[2.0], expected=[2 + 0.5 * -8]).check()


@pytest.mark.parametrize(("first", "second", "wanted"), [(2.0, -2.0, 2.0), (-2.0, 2.0, -2.0)])
def test_of_equal_changes_the_first_model_wins(first, second, wanted):
    OpCase(magmax, WHOLE, models=[[first], [second]], base=[0.0], expected=[wanted]).check()


def test_the_recipes_order_decides_and_not_the_names():
    models = {"z": torch.tensor([2.0]), "a": torch.tensor([-2.0])}
    assert run_op(magmax, WHOLE, models, torch.zeros(1)).item() == 2.0


def test_an_only_model_is_copied():
    OpCase(magmax, models=[[0.3]], base=[0.1], identity=[Identity(WHOLE, gives=0)]).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("shape", [(), (1,), (33, 65)])
def test_it_equals_argmax_over_a_stack(shape, count, dtype):
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(shape, generator=generator).to(dtype)
    models = [(base + 0.02 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(count)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    deltas = torch.stack([model.to(wide) - base.to(wide) for model in models])
    chosen = deltas.abs().argmax(0, keepdim=True)  # the first of equals, which bfloat16 has many of
    wanted = base.to(wide) + 0.3 * deltas.gather(0, chosen)[0]
    merged = run_op(magmax, {"lambda": 0.3}, models, base, chunk=500)
    assert torch.allclose(merged.double(), wanted.to(dtype).double(), rtol=1e-6, atol=1e-7)


@given(st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=4), st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_a_model_given_twice_changes_nothing(values, order):
    models = [torch.tensor(values) * (index - 1.5) for index in range(3)]
    base = torch.zeros(len(values))
    once = run_op(magmax, WHOLE, models, base)
    again = run_op(magmax, WHOLE, models + [models[index] for index in order], base)
    assert same_bytes(once, again)


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(magmax, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
