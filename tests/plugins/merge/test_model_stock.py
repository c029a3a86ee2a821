"""merge.model_stock: known angles, the ends, what has no angle, and the paper's formula in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from surgery.errors import OpError
from surgery.testing import OpCase, run_model_op, run_op, same_bytes
from surgery_merge.model_stock import ModelStockOp, ratios

SIXTY = [0.5, math.sqrt(0.75)]  # a unit vector at 60° to [1, 0]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def textbook(models: list[torch.Tensor], base: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Return the formula on vectors, or along `dim`, in float64."""
    deltas = [(model - base).double() for model in models]
    pairs = [(a, b) for i, a in enumerate(deltas) for b in deltas[i + 1 :]]

    def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if dim is None:
            a, b = a.reshape(-1), b.reshape(-1)
        return torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1)

    c = sum(cosine(a, b) for a, b in pairs) / len(pairs)
    t = (len(models) * c / (1 + (len(models) - 1) * c)).clamp(0, 1)
    return base.double() + t * sum(deltas) / len(deltas)


@pytest.mark.parametrize(
    ("deltas", "wanted"),
    [
        ([[1.0, 0.0], SIXTY], [0.5, 0.28867513]),  # c = 1/2, t = 2/3, mean = [3/4, 0.433]
        ([[1.0, 0.0], [0.0, 3.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0]),
        ([[1.0, 0.0], [3.0, 0.0]], [2.0, 0.0]),
        ([[1.0, 0.0], [-1.0, 0.0]], [0.0, 0.0]),  # at the pole, 1 + c = 0
        ([[1.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),  # no pair has an angle
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [2 / 3, 0.0]),  # one pair, c = 1
    ],
)
def test_known_angles(deltas, wanted):
    OpCase(
        ModelStockOp, models=deltas, base=[0.0, 0.0], expected=wanted, scale_equivariant=True, permutable=True
    ).check()


def test_three_models_at_sixty_degrees_go_three_quarters_of_the_way():
    deltas = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    base = torch.tensor([10.0, 20.0, 30.0])
    OpCase(ModelStockOp, models=list(base + deltas), base=base, expected=base + 0.75 * deltas.mean(0)).check()


def test_every_row_has_an_angle_of_its_own():
    a, b = [[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]], [SIXTY, [0.0, 1.0], [2.0, 0.0]]
    OpCase(
        ModelStockOp,
        {"filter_wise": True},
        models=[a, b],
        base=torch.zeros(3, 2),
        expected=[[0.5, 0.28867513], [0.0, 0.0], [2.0, 0.0]],
        scale_equivariant=True,
        permutable=True,
    ).check()


def test_a_vector_is_one_row():
    a, b, base = normal(7), normal(7, seed=1) + normal(7), normal(7, seed=2)
    by_row = run_op(ModelStockOp, {"filter_wise": True}, [a, b], base)
    assert torch.allclose(by_row, run_op(ModelStockOp, {}, [a, b], base), atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (300,), (20, 30), (3, 4, 5), (300, 450)])
@pytest.mark.parametrize("filter_wise", [False, True])
def test_it_equals_the_formula_in_float64(shape, filter_wise):
    base, shared = normal(*shape, seed=9), normal(*shape, seed=8)
    models = [base + 1e-3 * (shared + normal(*shape, seed=seed)) for seed in range(3)]
    OpCase(
        ModelStockOp,
        {"filter_wise": filter_wise},
        models=models,
        base=base,
        expected=textbook(models, base, -1 if filter_wise else None),
        chunks=(max(base.numel() // 3, 1),),
    ).check()


def test_small_deltas_of_half_precision_keep_their_angle():
    # in float16 their squares underflow, and a floor of 1e-6 under the norms would call them orthogonal
    base = normal(1000).half()
    models = [
        (base.float() + 1e-4 * (2 * normal(1000, seed=1) + normal(1000, seed=s))).half() for s in (2, 3)
    ]
    wanted = textbook([m.float() for m in models], base.float())
    OpCase(ModelStockOp, models=models, base=base, expected=wanted.half().double()).check()


def test_negative_cosines_are_stopped_at_the_base_unless_it_is_told_otherwise():
    opposing = [[1.0, 0.0], [-0.5, math.sqrt(0.75)]]  # c = -1/2: t = -1/(1/2) = -2
    assert run_op(ModelStockOp, {}, list(map(torch.tensor, opposing)), torch.zeros(2)).tolist() == [0.0, 0.0]
    OpCase(
        ModelStockOp,
        {"clamp": False},
        models=opposing,
        base=[0.0, 0.0],
        expected=[-0.5, -math.sqrt(0.75)],
    ).check()


@given(st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_the_ratio_lies_between_base_and_mean(vectors):
    points = np.array(vectors)
    t = ratios(points @ points.T, clamp=True)
    assert 0 <= t <= 1 + 1e-12


def test_over_the_whole_model_all_tensors_share_one_angle():
    base = {"p": torch.zeros(1), "q": torch.zeros(1)}
    models = {
        "a": {"p": torch.tensor([1.0]), "q": torch.tensor([0.0])},
        "b": {"p": torch.tensor([SIXTY[0]]), "q": torch.tensor([SIXTY[1]])},
    }
    made = run_model_op(ModelStockOp, {"scope": "model"}, models, base)
    assert made["p"].item() == pytest.approx(0.5, abs=1e-7)
    assert made["q"].item() == pytest.approx(0.28867513, abs=1e-7)


def test_the_scope_says_what_is_pooled():
    from surgery.ops import Signature, Split
    from surgery.tensors import Role, TensorSpec

    spec = TensorSpec("w", (2,), "F32")
    signature = Signature("w", (spec, spec), spec, (), Role("mlp.up", 3), 2)
    pools = {
        scope: ModelStockOp.pool(signature, ModelStockOp.params(scope=scope)) for scope in ("layer", "model")
    }
    assert pools == {"layer": ("", 3), "model": None}  # the stack, the layer
    assert ModelStockOp.split_of(ModelStockOp.params()) is Split.REDUCE
    assert ModelStockOp.split_of(ModelStockOp.params(scope="layer")) is Split.MODEL


def test_a_model_that_alone_has_a_tensor_leaves_the_base():
    base = torch.tensor([0.1, 0.2])
    assert same_bytes(run_op(ModelStockOp, {}, [base + 1], base), base)


def test_rows_and_pools_exclude_each_other():
    with pytest.raises(ValidationError) as error:
        ModelStockOp.params(filter_wise=True, scope="layer")
    assert "`filter_wise` takes an angle for each row, `scope: layer` one for many tensors; keep one" in str(
        error.value
    )


def test_a_base_is_needed():
    with pytest.raises(OpError) as error:
        run_op(ModelStockOp, {}, [torch.ones(1), torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"


def test_the_ratio_is_noted_where_it_is_one_for_a_tensor():
    """t = 2·½/(1 + ½)."""
    models, notes, rows = [torch.tensor([[1.0, 0.0]]), torch.tensor([SIXTY])], {}, {}
    run_op(ModelStockOp, {}, models, torch.zeros(1, 2), notes=notes)
    assert notes == {"ratio": pytest.approx(2 / 3, rel=1e-6)}
    run_op(ModelStockOp, {"filter_wise": True}, models, torch.zeros(1, 2), notes=rows)
    assert rows == {}


def test_numbers_that_are_none_are_kept_and_not_noted():
    broken, notes = torch.tensor([float("nan"), 1.0]), {}
    run_op(ModelStockOp, {}, [broken, torch.ones(2)], torch.zeros(2), notes=notes)
    assert notes == {}
