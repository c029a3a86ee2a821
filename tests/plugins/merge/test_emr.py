"""merge.emr: the elected sign and the largest change that has it."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.emr import emr


def test_the_larger_sum_elects_and_its_largest_member_stays():
    """Sums 3 and 2 elect +; the largest of 2, 1 is 2, of -1, 3 is 3. Third: -5 against 4 + 0.5 elects -."""
    OpCase(
        emr,
        models=[[2.0, -1.0, -5.0], [1.0, 3.0, 4.0], [0.0, 0.0, 0.5]],
        base=[0.0] * 3,
        expected=[2.0, 3.0, -5.0],
        tolerance=0,
        identity=[Identity({"lambda": 0}, gives=BASE)],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_lambda_scales_the_unified_delta():
    OpCase(emr, {"lambda": 0.5}, models=[[3.0], [2.0]], base=[1.0], expected=[2.0]).check()


def test_a_sum_of_zero_elects_minus():
    """As in the paper's code; TIES elects plus."""
    for models in ([[3.0], [-3.0]], [[-3.0], [3.0]]):
        OpCase(emr, models=models, base=[0.0], expected=[-3.0]).check()


def test_an_only_model_is_copied():
    OpCase(emr, models=[[0.3]], base=[0.1], identity=[Identity(gives=0)]).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (33, 65)])
def test_it_equals_the_papers_loop(shape, dtype):
    """The reference goes as the paper's code does: a flag, then the maximum of what has it, model by model."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(shape, generator=generator).to(dtype)
    models = [(base + 0.02 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(4)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    deltas = [model.to(wide) - base.to(wide) for model in models]
    flag = torch.where(sum(deltas) > 0, 1.0, -1.0).to(wide)
    largest = torch.zeros(shape, dtype=wide)
    for delta in deltas:
        largest = torch.where((delta * flag > 0) & (delta.abs() > largest), delta.abs(), largest)
    wanted = (base.to(wide) + flag * largest).to(dtype)
    assert torch.equal(run_op(emr, {}, models, base, chunk=500), wanted)


def test_giving_every_model_twice_changes_nothing():
    models = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([-0.5, -1.0, 4.0])]
    base = torch.zeros(3)
    assert same_bytes(run_op(emr, {}, models, base), run_op(emr, {}, models * 2, base))


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(emr, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
