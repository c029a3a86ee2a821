"""merge.emr_task: masks and scales by hand, over a tensor and over a model."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import Split
from surgery.testing import OpCase, run_model_op, run_op, same_bytes
from surgery_merge.emr import emr
from surgery_merge.emr_task import EmrTaskOp

# deltas [2, -1] and [1, 3]: unified [2, 3]; masks [1, 0] and [1, 1]; scales 3/2 and 4/5
UNIFIED, TASKS = [2.0, 3.0], [[2.0, -1.0], [1.0, 3.0]]


@pytest.mark.parametrize("scope", ["tensor", "layer", "model"])
@pytest.mark.parametrize("sums", ["elements", "means"])
@pytest.mark.parametrize(("task", "wanted"), [(0, [3.0, 0.0]), (1, [1.6, 2.4])])
def test_a_task_sees_what_has_its_sign_at_its_own_size(task, wanted, sums, scope):
    OpCase(
        EmrTaskOp,
        {"scope": scope, "sums": sums},
        models=[UNIFIED, TASKS[task]],
        base=[0.0, 0.0],
        expected=wanted,
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_the_unified_model_comes_first():
    unified = run_op(emr, {}, [torch.tensor(task) for task in TASKS], torch.zeros(2))
    assert unified.tolist() == UNIFIED
    seen = run_op(EmrTaskOp, {}, {"unified": unified, "code": torch.tensor(TASKS[0])}, torch.zeros(2))
    assert seen.tolist() == [3.0, 0.0]


def test_one_scale_for_the_model_is_a_ratio_of_sums_or_of_sums_of_means():
    """Own masses 4 of 4 elements and 9 of one; masked ones 8 of 4 and 3 of one."""
    base = {"v": torch.zeros(4), "w": torch.zeros(1)}
    models = {
        "unified": {"v": torch.full((4,), 2.0), "w": torch.tensor([3.0])},
        "task": {"v": torch.full((4,), 1.0), "w": torch.tensor([9.0])},
    }
    for sums, scale in (("elements", 13 / 11), ("means", (4 / 4 + 9) / (8 / 4 + 3))):
        seen = run_model_op(EmrTaskOp, {"sums": sums}, models, base)
        assert seen["v"].tolist() == pytest.approx([2 * scale] * 4)
        assert seen["w"].item() == pytest.approx(3 * scale)


@pytest.mark.parametrize("shape", [(), (33, 65), (300, 1000)])
def test_it_equals_the_formula_in_float64(shape):
    generator = torch.Generator().manual_seed(6)
    base = torch.randn(shape, generator=generator)
    unified, own = (base + 0.02 * torch.randn(shape, generator=generator) for _ in range(2))
    u, t = (unified - base).double(), (own - base).double()
    masked = torch.where(u * t > 0, u, 0)
    scale = t.abs().sum() / masked.abs().sum() if masked.any() else 1
    seen = run_op(EmrTaskOp, {}, [unified, own], base, chunk=70_001)
    assert torch.allclose(seen.double(), base.double() + scale * masked, rtol=1e-6, atol=1e-7)


def test_tiny_changes_agree_too():
    """A product of 1e-30 and 1e-30 is 0 in float32."""
    seen = run_op(EmrTaskOp, {}, [torch.tensor([1e-30]), torch.tensor([1e-30])], torch.zeros(1))
    assert seen.item() == pytest.approx(1e-30)


def test_a_task_that_agrees_nowhere_is_given_the_base():
    base = torch.tensor([1.0, 2.0])
    assert torch.equal(run_op(EmrTaskOp, {}, [base + 1, base - 1], base), base)


def test_a_tensor_of_one_model_is_copied():
    model = torch.tensor([0.3])
    assert same_bytes(run_op(EmrTaskOp, {"scope": "tensor"}, [model], torch.zeros(1)), model)


def test_a_scope_of_one_tensor_is_reduced_by_itself():
    splits = [EmrTaskOp.split_of(EmrTaskOp.params(scope=scope)) for scope in ("tensor", "layer", "model")]
    assert splits == [Split.REDUCE, Split.MODEL, Split.MODEL]


def test_a_tensor_that_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(EmrTaskOp, {}, [torch.ones(1)] * 2)
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
