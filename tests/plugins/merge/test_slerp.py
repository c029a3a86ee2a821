"""merge.slerp: known arcs, the straight line where there is none, and angles that other formulas lose."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import OpError
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.slerp import SlerpOp, coefficients

ENDS = [Identity({"t": 0}, gives=0), Identity({"t": 1}, gives=1)]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ([1.0, 0.0], [0.0, 1.0], [0.70710678, 0.70710678]),
        ([2.0, 0.0], [0.0, 1.0], [1.41421356, 0.70710678]),
        ([1.0, 0.0], [0.0, 2.0], [0.70710678, 1.41421356]),
        ([1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]),
        ([0.0, 0.0], [0.0, 2.0], [0.0, 1.0]),
        ([3.0, 0.0], [6.0, 0.0], [4.5, 0.0]),
    ],
)
def test_half_way(a, b, wanted):
    OpCase(
        SlerpOp,
        {"t": 0.5},
        models=[a, b],
        expected=wanted,
        identity=ENDS,
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_a_third_of_a_quarter_circle():
    OpCase(
        SlerpOp,
        {"t": 1 / 3},
        models=[[[1.0], [0.0]], [[0.0], [1.0]]],
        expected=[[math.cos(math.pi / 6)], [math.sin(math.pi / 6)]],
        identity=ENDS,
    ).check()


def test_delta_space_turns_around_the_base():
    OpCase(
        SlerpOp,
        {"t": 0.5, "space": "delta"},
        models=[[2.0, 1.0], [1.0, 2.0]],
        base=[1.0, 1.0],
        expected=[1.70710678, 1.70710678],
        identity=ENDS,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 5, 1000, 140_000])
def test_it_equals_the_textbook_in_float64(size, t):
    generator = torch.Generator().manual_seed(size)
    a, b = torch.randn(size, generator=generator), torch.randn(size, generator=generator) * 3
    x, y = a.double(), b.double()
    cosine = (x @ y / (x.norm() * y.norm())).clamp(-1, 1)
    if abs(cosine) > 0.9995:
        wanted = (1 - t) * x + t * y
    else:
        omega = torch.arccos(cosine)
        wanted = (torch.sin((1 - t) * omega) * x + torch.sin(t * omega) * y) / torch.sin(omega)
    OpCase(SlerpOp, {"t": t}, models=[a, b], expected=wanted, chunks=(size, 50_000)).check()


@given(st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_the_way_back_is_the_way(t):
    a, b = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([-1.0, 1.0, 2.0])
    there = run_op(SlerpOp, {"t": t}, [a, b])
    back = run_op(SlerpOp, {"t": 1 - t}, [b, a])
    assert torch.allclose(there, back, atol=1e-6)


def test_unit_vectors_stay_unit_vectors():
    a, b = torch.tensor([0.6, 0.8, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    for t in (0.1, 0.5, 0.7):
        assert run_op(SlerpOp, {"t": t}, [a, b]).norm().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("omega", [1e-7, 1e-4, 1.0, 3.0, math.pi - 1e-2])
def test_small_and_large_angles_keep_their_digits(omega):
    found = coefficients(0.25, 1.0, 1.0, (2 * math.sin(omega / 2)) ** 2, threshold=1.0)
    wanted = (math.sin(0.75 * omega) / math.sin(omega), math.sin(0.25 * omega) / math.sin(omega))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_threshold_decides_between_arc_and_line():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(0.1), math.sin(0.1)])
    line = run_op(SlerpOp, {"t": 0.5, "dot_threshold": 0.99}, [a, b])
    arc = run_op(SlerpOp, {"t": 0.5, "dot_threshold": 0.999}, [a, b])
    assert torch.allclose(line, (a + b) / 2)
    assert arc.norm() > line.norm()
    assert arc.norm().item() == pytest.approx(1, abs=1e-6)


def test_a_model_that_alone_has_a_tensor_gives_it_whole():
    model = torch.tensor([0.1, 0.2])
    assert same_bytes(run_op(SlerpOp, {"t": 0.5}, [model]), model)


@pytest.mark.parametrize(
    ("params", "base", "text"),
    [
        ({"t": 0.5, "space": "delta"}, None, "w: space: delta needs a base; name one in `base:`"),
        (
            {"t": 0.5},
            torch.ones(1),
            "w: space: weight has no use for a base; remove `base:` or set space: delta",
        ),
    ],
)
def test_a_base_is_given_where_it_is_used(params, base, text):
    with pytest.raises(OpError) as error:
        run_op(SlerpOp, params, [torch.ones(1), torch.ones(1)], base)
    assert str(error.value) == text


def test_t_must_be_given():
    with pytest.raises(ValueError, match=r"t\n  Field required"):
        run_op(SlerpOp, {}, [torch.ones(1), torch.ones(1)])
