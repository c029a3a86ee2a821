"""merge.extrapolate: on from the model, by part of the way from its base."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.extrapolate import extrapolate
from surgery_merge.task_arithmetic import task_arithmetic


def test_half_a_step_further():
    OpCase(
        extrapolate,
        {"alpha": 0.5},
        models=[[2.0, 3.0, -1.0]],
        base=[1.0, 5.0, -1.0],
        expected=[2.5, 2.0, -1.0],
        tolerance=0,
        identity=[Identity({"alpha": 0}, gives=0), Identity({"alpha": -1}, gives=BASE)],
        scale_equivariant=True,
        permutable=True,
    ).check()


@pytest.mark.parametrize("alpha", [-2.0, -0.5, 0.1, 0.3, 3.0])
@pytest.mark.parametrize("shape", [(), (1, 1), (11, 201)])
def test_it_equals_the_formula_in_float64(shape, alpha):
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(shape, generator=generator)
    model = base + 0.01 * torch.randn(shape, generator=generator)
    wanted = model.double() + alpha * (model - base).double()
    OpCase(extrapolate, {"alpha": alpha}, models=[model], base=base, expected=wanted, chunks=(1, 100)).check()


def test_it_is_task_arithmetic_with_a_weight_above_one():
    base, model = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.25, -2.5, 0.5])
    further = run_op(extrapolate, {"alpha": 0.5}, [model], base)
    assert torch.equal(further, run_op(task_arithmetic, {}, [model], base, each=[{"weight": 1.5}]))


def test_what_did_not_change_keeps_its_bytes():
    model = torch.tensor([0.1, -7.3, 1e-30])
    assert same_bytes(run_op(extrapolate, {"alpha": 0.7}, [model], model.clone()), model)


def test_a_ramp_goes_further_in_later_layers():
    model, base = torch.tensor([1.0]), torch.tensor([0.0])
    assert run_op(extrapolate, {"alpha": [0, 1]}, [model], base, depth=0.25).item() == 1.25


def test_the_default_is_three_tenths():
    assert extrapolate.params().alpha == 0.3


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(extrapolate, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
