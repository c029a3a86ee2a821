"""merge.svc against numbers by hand, and the formulas row by row in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.errors import OpError
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import OpCase, run_op, same_bytes
from surgery_merge.svc import Svc, svc
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, noise, random_models


def test_what_two_tasks_brought_alike_counts_once():
    """Direction 1 is in both tasks, and twice in their sum: s = 2 for both, γ = 1/2."""
    OpCase(
        svc,
        ALL,
        models=[diag(2, 0), diag(1, 0), diag(1, 0)],
        base=ZERO,
        expected=diag(1, 0),
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize(("alpha", "wanted"), [(1, (4, 3)), (0.5, (16 / 3, 4)), (4, (1, 0.75))])
def test_tasks_of_their_own_directions_are_left_alone(alpha, wanted):
    """s is 1 for the task that has the direction and 0 for the other: γ = 2/(max(α, 1) + α)."""
    models = [diag(4, 3), diag(4, 0), diag(0, 3)]
    OpCase(svc, {**ALL, "alpha": alpha}, models=models, base=ZERO, expected=diag(*wanted)).check()


def test_rounding_is_no_part_of_a_direction():
    """Turned about, a task's row in the other's direction is 1e-17, and its share of that would be enormous."""
    left, right = torch.linalg.qr(noise(6, 6))[0], torch.linalg.qr(noise(5, 5, seed=1))[0]
    tasks = [left[:, :2] @ diag(3, 2).double() @ right[:2], left[:, 2:4] @ diag(4, 1).double() @ right[2:4]]
    merge = sum(tasks)
    assert torch.allclose(run_op(svc, ALL, [merge, *tasks], torch.zeros_like(merge)), merge, atol=1e-12)


def test_a_task_that_points_the_other_way_counts_as_alpha():
    """s is 1/2 of 2 and -1 of -1: clamped to 1 both."""
    OpCase(svc, ALL, models=[diag(1, 1), diag(2, 1), diag(-1, 1)], base=ZERO, expected=diag(1, 1)).check()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize("alpha", [1, 0.3])
def test_it_equals_the_formulas_row_by_row(shape, alpha):
    tasks, base = random_models(shape, 3)
    merge = base + sum(task - base for task in tasks)
    delta, *others = (delta.numpy() for delta in deltas_of([merge, *tasks], base))
    U, S, Vh = np.linalg.svd(delta, full_matrices=False)
    for r in range(len(S)):
        a, rows = U[:, r] @ delta, [U[:, r] @ other for other in others]
        S[r] *= 3 / sum(max(alpha, a @ row / (row @ row)) for row in rows)
    wanted = base.double() + torch.from_numpy((U * S) @ Vh).reshape(shape)
    OpCase(svc, {**ALL, "alpha": alpha}, models=[merge, *tasks], base=base, expected=wanted).check()


def test_what_is_no_matrix_is_the_merges():
    models = [torch.tensor([2.0]), torch.tensor([1.0])]
    assert same_bytes(run_op(svc, {}, models, torch.zeros(1)), models[0])
    assert same_bytes(run_op(svc, {}, [diag(2, 1), diag(1, 1)], ZERO), diag(2, 1))
    assert run_op(svc, ALL, [ZERO[:0], ZERO[:0]], ZERO[:0]).shape == (0, 2)


def test_the_experts_of_a_stack_are_matrices_of_their_own():
    tasks, base = random_models((3, 6, 5), 2)
    models = [base + sum(task - base for task in tasks), *tasks]
    stack = run_op(svc, {}, models, base, role=Role("experts.up", 0))
    for index, merged in enumerate(stack):
        assert same_bytes(merged, run_op(svc, ALL, [model[index] for model in models], base[index]))


def test_a_tensor_that_the_merge_or_the_base_lacks_is_refused():
    with pytest.raises(OpError) as error:
        run_op(svc, ALL, [torch.ones(2, 2)] * 2)
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
    spec = TensorSpec("w", (2, 2), "F32")
    signature = Signature("w", (spec, spec), spec, (), Role(), 4, places=(1, 2))
    assert svc.check(signature, Svc()) == (
        "the first model, the merge to calibrate, lacks this tensor; leave it out with `where:`"
    )
