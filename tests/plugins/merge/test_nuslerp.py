"""merge.nuslerp: known arcs of tensors, rows and columns, mergekit's fixtures, and the formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.nuslerp import NuslerpOp
from surgery_merge.slerp import SlerpOp

ROWS = {"flatten": False}
COLUMNS = {"flatten": False, "axis": "columns"}
HALF = math.sqrt(0.5)
ENDS = [
    Identity(each=[{"weight": 2}, {"weight": 0}], gives=0),
    Identity(each=[{"weight": 0}, {"weight": 0.1}], gives=1),
]


def weights(*values: float) -> list[dict[str, float]]:
    return [{"weight": value} for value in values]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def textbook(a: torch.Tensor, b: torch.Tensor, t: float, dim: int | None = None) -> torch.Tensor:
    """Return slerp along `dim`, or of the flattened tensors, in float64."""
    a, b = a.double(), b.double()
    x, y = (a, b) if dim is not None else (a.reshape(-1), b.reshape(-1))
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=-1 if dim is None else dim)
    omega = torch.arccos(cosine.clamp(-1, 1)).unsqueeze(-1 if dim is None else dim)
    ends = torch.sin((1 - t) * omega) / torch.sin(omega), torch.sin(t * omega) / torch.sin(omega)
    curved = torch.sin(omega) > 1e-8
    return torch.where(curved, ends[0], 1 - t) * a + torch.where(curved, ends[1], t) * b


@pytest.mark.parametrize("params", [{}, ROWS, COLUMNS])
@pytest.mark.parametrize(
    ("a", "b", "each", "wanted"),
    [
        ([1.0, 0.0], [0.0, 1.0], (1, 1), [HALF, HALF]),
        ([1.0, 0.0], [0.0, 1.0], (1, 3), [0.38268343, 0.92387953]),
        ([2.0, 0.0], [0.0, 1.0], (1, 1), [2 * HALF, HALF]),  # the ends keep their lengths
        ([1.0, 0.0], [-1.0, 0.0], (1, 1), [0.0, 0.0]),  # on one line: straight
        ([0.0, 0.0], [0.0, 2.0], (3, 1), [0.0, 0.5]),
        ([3.0, 0.0], [6.0, 0.0], (1, 2), [5.0, 0.0]),
        ([1.0, 0.0], [0.0, 1.0], (1, -1), [HALF, HALF]),  # weights without a ratio: half way
    ],
)
def test_a_vector_is_one_line(params, a, b, each, wanted):
    OpCase(
        NuslerpOp,
        params,
        models=[a, b],
        each=weights(*each),
        expected=wanted,
        identity=ENDS,
        scale_equivariant=True,
        permutable=True,
    ).check()


A, B = [[1.0, 0.0]] * 4, [[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]
QUARTER = [[1.0, 0.0], [1.25, 0.0], [0.5, 0.0], [0.92387953, 0.38268343]]


def test_rows_as_mergekit_has_them():
    OpCase(
        NuslerpOp,
        ROWS,
        models=[A, B],
        each=weights(3, 1),
        expected=QUARTER,
        identity=ENDS,
        scale_equivariant=True,
    ).check()


def test_columns_are_the_rows_of_the_transposed():
    OpCase(
        NuslerpOp,
        COLUMNS,
        models=[torch.tensor(A).T, torch.tensor(B).T],
        each=weights(3, 1),
        expected=torch.tensor(QUARTER).T,
        scale_equivariant=True,
    ).check()


def test_with_a_base_the_deltas_turn():
    for params in ({}, ROWS, COLUMNS):
        OpCase(
            NuslerpOp,
            params,
            models=[[2.0, 1.0], [1.0, 2.0]],
            base=[1.0, 1.0],
            each=weights(1, 1),
            expected=[1 + HALF, 1 + HALF],
            identity=ENDS,
            scale_equivariant=True,
        ).check()


def test_stacked_matrices_are_taken_one_by_one():
    a, b = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    for params in (ROWS, COLUMNS):
        stacked = run_op(NuslerpOp, params, [a, b], each=weights(1, 2))
        alone = [run_op(NuslerpOp, params, [x, y], each=weights(1, 2)) for x, y in zip(a, b, strict=True)]
        assert torch.allclose(stacked, torch.stack(alone), atol=1e-6)


def test_all_but_the_first_dimension_of_a_kernel_make_a_row():
    a, b = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
    kernel = run_op(NuslerpOp, ROWS, [a, b], each=weights(1, 2))
    matrix = run_op(NuslerpOp, ROWS, [a.reshape(3, 8), b.reshape(3, 8)], each=weights(1, 2))
    assert same_bytes(kernel.reshape(3, 8), matrix)


@pytest.mark.parametrize(("params", "dim"), [({}, None), (ROWS, -1), (COLUMNS, 0)])
@pytest.mark.parametrize("shape", [(1, 7), (40, 50), (300, 450)])
@pytest.mark.parametrize("with_base", [False, True])
def test_it_equals_the_formula_in_float64(params, dim, shape, with_base):
    base = normal(*shape, seed=9) if with_base else None
    origin = torch.zeros(shape) if base is None else base
    a, b = (origin + normal(*shape, seed=seed) for seed in (1, 2))
    wanted = origin.double() + textbook(a - origin, b - origin, 0.7, dim)
    OpCase(
        NuslerpOp,
        params,
        models=[a, b],
        base=base,
        each=weights(0.3, 0.7),
        expected=wanted,
        chunks=(max(a.numel() // 3, 2),),
    ).check()


@given(st.floats(0.05, 0.95), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_a_tensor_as_a_whole_is_slerp_whatever_the_model_comes_first(t, seed):
    a, b = normal(6, seed=seed), normal(6, seed=seed + 100)
    there = run_op(NuslerpOp, {}, [a, b], each=weights(1 - t, t))
    back = run_op(NuslerpOp, {}, [b, a], each=weights(t, 1 - t))
    assert torch.allclose(there, run_op(SlerpOp, {"t": t, "dot_threshold": 1}, [a, b]), atol=2e-6)
    assert torch.allclose(there, back, atol=2e-6)


def test_siblings_take_the_arc_that_slerp_leaves_for_a_line():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(0.02), math.sin(0.02)])  # cosine 0.9998
    assert run_op(NuslerpOp, {}, [a, b], each=weights(1, 1)).norm().item() == pytest.approx(1, abs=1e-7)
    assert run_op(SlerpOp, {"t": 0.5}, [a, b]).norm().item() == pytest.approx(math.cos(0.01), abs=1e-7)


def test_a_model_that_alone_has_a_tensor_gives_it_whole():
    model = torch.tensor([0.1, 0.2])
    assert same_bytes(run_op(NuslerpOp, {}, [model], each=weights(0.3)), model)


def test_weights_must_be_given():
    with pytest.raises(ValueError, match=r"weight\n  Field required"):
        run_op(NuslerpOp, {}, [torch.ones(1), torch.ones(1)])
