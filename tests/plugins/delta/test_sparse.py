"""The largest changes: exactly so many, the first of equal ones, and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.checkpoint.base import Checkpoint
from surgery.errors import CheckpointError
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import run_emitting_op
from surgery_delta.sparse import Sparse, parts, sparse
from tests.plugins.delta.conftest import UP, applied, back, normal, read, stored

MODEL = [[1.0, -3, 2], [0, -2, 4]]


def test_half_of_six_by_hand():
    """The largest are 4, 3, and of the two 2s the first."""
    made = stored(sparse, MODEL, density=0.5)
    assert made["values"].tolist() == [-3, 2, 4]
    assert made["columns"].tolist() == [1, 2, 2]
    assert made["starts"].tolist() == [0, 2, 3]
    assert [made[name].dtype for name in ("values", "columns", "starts")] == [
        torch.bfloat16,
        torch.uint16,
        torch.int32,
    ]
    assert back(sparse, MODEL, density=0.5).tolist() == [[0, -3, 2], [0, 0, 4]]


def test_all_of_them_are_exact():
    base = normal(7, 11, seed=1).bfloat16().float()
    model = normal(7, 11, seed=2).bfloat16().float()
    again = back(sparse, model, base, density=1, dtype="float32")
    assert torch.equal(again.bfloat16().float(), model)


def test_at_least_one_change_is_stored():
    assert back(sparse, MODEL, density=0.01).tolist() == [[0, 0, 0], [0, 0, 4]]


def test_of_each_expert_in_one_tensor_as_many_are_stored():
    role = Role("experts.up", layer=0)
    model = [[[1.0, 2], [3, 4]], [[10, 20], [30, 40]]]
    assert back(sparse, model, role=role, density=0.5).tolist() == [[[0, 0], [3, 4]], [[0, 0], [30, 40]]]


def test_long_rows_have_wide_columns():
    spec = TensorSpec("w", (2, 65537), "BF16")
    dtypes = {
        p.spec.name: p.spec.dtype for p in parts(Signature("w", (spec,), spec, (), UP, spec.numel), Sparse())
    }
    assert dtypes == {"w.values": "BF16", "w.columns": "I32", "w.starts": "I32", "w.base": "I32"}
    model = torch.zeros(2, 65537)
    model[1, 65536] = 5
    assert torch.equal(back(sparse, model, density=1e-6), model)


def test_the_last_column_that_fits_sixteen_bits_is_found():
    model = torch.zeros(1, 65536)
    model[0, 65535] = 5
    made = stored(sparse, model, density=1e-6)
    assert made["columns"].dtype is torch.uint16
    assert torch.equal(back(sparse, model, density=1e-6), model)


def test_rows_that_no_index_reaches_are_refused_before_work():
    spec = TensorSpec("w", (1, 1 << 31), "BF16")
    assert sparse.check is not None
    assert sparse.check(Signature("w", (spec,), spec, (), UP, spec.numel), Sparse()) == (
        "rows of 2147483648 elements are too long; leave it out with `where:`"
    )


@given(st.integers(1, 30), st.integers(1, 20), st.floats(0.01, 1), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_it_is_a_stable_sort_cut_off(rows, row, density, levels, seed):
    model = normal(rows, row, seed=seed).mul(levels).round()  # many are equal
    count = max(1, int(density * model.numel()))
    order = model.abs().flatten().argsort(descending=True, stable=True)[:count]
    expected = torch.zeros(rows * row)
    expected[order] = model.flatten()[order]
    made = stored(sparse, model, density=density)
    assert made["values"].numel() == count
    assert torch.equal(back(sparse, model, density=density), expected.view(rows, row))


def damaged(**changes: torch.Tensor) -> Checkpoint:
    made = stored(sparse, MODEL, density=0.5) | changes
    return applied(sparse, made, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"starts": torch.tensor([0, 2, 9], dtype=torch.int32)}, "starts"),
        ({"starts": torch.tensor([-1, 2, 3], dtype=torch.int32)}, "starts"),
        ({"starts": torch.tensor([0, 4, 3], dtype=torch.int32)}, "starts"),
        ({"columns": torch.tensor([1, 2, 3], dtype=torch.uint16)}, "columns"),
    ],
)
def test_places_outside_of_the_matrix_are_refused(changes, part):
    with pytest.raises(CheckpointError) as error:
        read(damaged(**changes))
    assert str(error.value) == f"memory: w.{part} points outside of (2, 3); the file is damaged"


def test_a_density_of_nothing_is_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        Sparse(density=0)


def test_the_share_of_the_squares_that_is_stored_is_noted():
    notes: dict[str, float] = {}
    model = torch.tensor(MODEL)
    run_emitting_op(sparse, {"density": 0.5}, [model], torch.zeros(2, 3), name="w", role=UP, notes=notes)
    assert notes == {"energy": 29 / 34}


def test_of_no_change_and_of_nan_nothing_is_noted():
    for model in (torch.zeros(2, 3), torch.full((2, 3), float("nan"))):
        notes: dict[str, float] = {}
        run_emitting_op(sparse, {"density": 0.5}, [model], torch.zeros(2, 3), name="w", role=UP, notes=notes)
        assert notes == {}
