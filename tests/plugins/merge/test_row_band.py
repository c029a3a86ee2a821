"""merge.breadcrumbs and merge.breadcrumbs_ties with `scope: row`: by hand, against sorted rows, and by the engine."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.ops import BASE, Split
from surgery.tensors import Role
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery.testing.runner import concrete
from surgery_merge.breadcrumbs import BreadcrumbsOp
from surgery_merge.breadcrumbs_ties import BreadcrumbsTiesOp
from tests.plugins.merge.matrices import random_models

ROW = {"scope": "row"}
OPS = pytest.mark.parametrize("op", [BreadcrumbsOp, BreadcrumbsTiesOp], ids=lambda op: op.name)


def banded(models, base, each, *, rescale=False):
    """The deltas whose elements stay, rows sorted in float64; [models, rows, length]."""
    kept = []
    for model, entry in zip(models, each, strict=True):
        delta = (model.double() - base.double()).reshape(len(base), -1)
        n = delta.shape[1]
        count = int(entry["density"] * n)
        outliers = min(int(entry.get("gamma", 0.01) * n), n - count)
        falling = delta.abs().sort(1, descending=True).values
        low, high = falling[:, outliers + count - 1, None], falling[:, outliers, None]
        inside = torch.where((delta.abs() >= low) & (delta.abs() <= high), delta, 0)
        kept.append(inside * delta.abs().sum(1, True) / inside.abs().sum(1, True) if rescale else inside)
    return torch.stack(kept)


@OPS
def test_every_row_has_a_band_of_its_own(op):
    """Of five elements the largest and the two smallest go, however small the row is."""
    OpCase(
        op,
        ROW,
        models=[[[1.0, -2.0, 3.0, 4.0, -5.0], [0.5, 0.1, -0.3, 0.4, 0.2]]],
        base=[[0.0] * 5] * 2,
        each=[{"density": 0.4, "gamma": 0.2}],
        expected=[[0, 0, 3, 4, 0], [0, 0, -0.3, 0.4, 0]],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0.19}], gives=BASE),
            Identity(each=[{"density": 1, "gamma": 0.5}], gives=0),
        ],
        permutable=True,
        scale_equivariant=True,
    ).check()


@OPS
def test_what_equals_an_end_of_a_rows_band_stays(op):
    merged = run_op(
        op,
        ROW,
        [torch.tensor([[4.0, -4, 3, 3, 1]])],
        torch.zeros(1, 5),
        each=[{"density": 0.4, "gamma": 0.2}],
    )
    assert merged.tolist() == [[4, -4, 3, 3, 0]]


@OPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rescale", ["none", "l1"])
@pytest.mark.parametrize("shape", [(40, 11), (7, 3, 2, 2), (1, 300)])
def test_it_equals_sorted_rows(op, shape, rescale, dtype):
    models, base = random_models(shape, 3, dtype)
    each = [{"density": 0.5, "gamma": 0.1}, {"density": 0.3, "weight": -0.5}, {"density": 1, "weight": 2.0}]
    kept, weights = banded(models, base, each, rescale=rescale == "l1"), torch.tensor([1, -0.5, 2.0])
    kept *= weights[:, None, None]
    if op is BreadcrumbsTiesOp:
        kept = torch.where(kept.sign() == torch.where(kept.sum(0) >= 0, 1, -1), kept, 0)
    wanted = base.double() + 0.7 * kept.sum(0).reshape(shape)
    settings = {**ROW, "rescale": rescale, "lambda": 0.7}
    # float32 sums may elect another sign where float64's are near 0
    wide = [one.double() for one in (*models, base)]
    OpCase(op, settings, models=wide[:-1], base=wide[-1], each=each, expected=wanted).check()
    stored = run_op(op, settings, models, base, each=each)
    assert stored.dtype == dtype
    near = torch.isclose(stored.double(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=1e-7)
    assert near.double().mean() > 0.97


@OPS
def test_a_vector_is_one_row_and_a_row_is_a_tensor(op):
    models, base = random_models((50,), 2)
    each = [{"density": 0.5}, {"density": 0.3, "gamma": 0.1}]
    for settings in ({}, {"normalize": True, "rescale": "l1"}):
        row = run_op(op, ROW | settings, models, base, each=each)
        assert torch.allclose(row, run_op(op, settings, models, base, each=each), rtol=1e-6, atol=0)


@OPS
def test_the_rows_of_a_stack_of_experts_are_those_of_its_matrices(op):
    models, base = random_models((3, 6, 10), 2)
    told = {"each": [{"density": 0.4, "gamma": 0.1}] * 2}
    stack = run_op(op, ROW, models, base, role=Role("experts.up", 0), **told)
    for index, merged in enumerate(stack):
        assert same_bytes(merged, run_op(op, ROW, [one[index] for one in models], base[index], **told))


@OPS
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0, 4), (3, 1)])
def test_rows_of_one_element_and_of_none_are_kept_whole_or_dropped(op, shape):
    base, model = torch.zeros(shape), torch.ones(shape)
    assert torch.equal(run_op(op, ROW, [model], base, each=[{"density": 1}]), model)
    assert torch.equal(run_op(op, ROW, [model], base, each=[{"density": 0.5}]), base)


@OPS
def test_rows_are_read_once(op):
    assert op.split_of(concrete(op.params, ROW)) is Split.ROW


@OPS
def test_a_number_that_is_none_stays_alone(op):
    models = [torch.tensor([[1.0, float("nan"), 3.0, 2.0]])]
    merged = run_op(op, ROW, models, torch.zeros(1, 4), each=[{"density": 0.5, "gamma": 0}])
    assert merged[0, 1].isnan()
    assert merged[0, [0, 2, 3]].tolist() == [0, 3, 0]


def test_weights_that_cancel_are_refused_for_rows_too():
    each = [{"density": 0.5, "weight": 1}, {"density": 0.5, "weight": -1}]
    with pytest.raises(OpError, match="sum to 0"):
        run_op(BreadcrumbsOp, ROW | {"normalize": True}, [torch.ones(2, 2)] * 2, torch.zeros(2, 2), each=each)
