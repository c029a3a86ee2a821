"""merge.transplant: bytes of one model or the other, and what lies between."""

from __future__ import annotations

import pytest
import torch

from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.transplant import transplant

ENDS = [Identity({"alpha": 0}, gives=0), Identity({"alpha": 1}, gives=1)]


def test_a_quarter_of_the_way():
    OpCase(
        transplant,
        {"alpha": 0.25},
        models=[[1.0, 4.0, 0.3], [5.0, -4.0, 0.3]],
        expected=[2.0, 2.0, 0.3],
        identity=ENDS,
        scale_equivariant=True,
        permutable=True,
    ).check()


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(), (1, 1), (11, 201)])
def test_it_equals_the_line_in_float64(shape, alpha):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    wanted = (1 - alpha) * a.double() + alpha * b.double()
    OpCase(transplant, {"alpha": alpha}, models=[a, b], expected=wanted, chunks=(1, 100)).check()


def test_the_whole_of_it_is_the_default():
    own, foreign = torch.tensor([1.0]), torch.tensor([0.1])
    assert same_bytes(run_op(transplant, {}, [own, foreign]), foreign)


def test_the_recipes_order_says_who_receives():
    models = {"z": torch.tensor([1.0]), "a": torch.tensor([2.0])}
    assert run_op(transplant, {"alpha": 0.25}, models).item() == 1.25


def test_a_model_that_alone_has_a_tensor_gives_it():
    model = torch.tensor([0.1])
    assert same_bytes(run_op(transplant, {"alpha": 0.5}, [model]), model)


def test_a_ramp_takes_more_of_later_layers():
    models = [torch.tensor([0.0]), torch.tensor([8.0])]
    assert run_op(transplant, {"alpha": [0, 1]}, models, depth=0.5).item() == 4.0


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_lies_between_the_models(alpha):
    with pytest.raises(ValueError, match=r"(greater|less) than or equal to"):
        run_op(transplant, {"alpha": alpha}, [torch.ones(1)] * 2)
