"""merge.multislerp: known means of directions, where there is none, and the published formula in float64."""

from __future__ import annotations

import math

import pytest
import torch

from surgery.errors import OpError
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.karcher import KarcherOp
from surgery_merge.multislerp import MultislerpOp

HALF = math.sqrt(0.5)


def weights(*values: float) -> list[dict[str, float]]:
    return [{"weight": value} for value in values]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def textbook(models: list[torch.Tensor], given: list[float]) -> torch.Tensor:
    """Return (Σ w·|x|)·m/|m| in float64."""
    wide = [model.double() for model in models]
    mean = sum(w * x / x.norm() for w, x in zip(given, wide, strict=True))
    return sum(w * x.norm() for w, x in zip(given, wide, strict=True)) * mean / mean.norm()


@pytest.mark.parametrize(
    ("models", "each", "wanted"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], (1, 1), [HALF, HALF]),
        ([[1.0, 0.0], [0.0, 1.0]], (1, 3), [0.31622777, 0.9486833]),
        ([[2.0, 0.0], [0.0, 4.0]], (1, 1), [3 * HALF, 3 * HALF]),
        ([[1.0, 0.0], [3.0, 0.0]], (1, 1), [2.0, 0.0]),
        ([[3.0, 0.0], [0.0, 0.0]], (1, 2), [1.0, 0.0]),  # a zero tensor has a length, no direction
        ([[0.0, 0.0], [0.0, 0.0]], (1, 1), [0.0, 0.0]),
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], (1, 1, 1), [0.0, 1.0]),
        ([[1.0, 0.0], [0.0, 3.0]], (1.5, -0.5), [0.0, 0.0]),  # length 1.5 - 1.5
    ],
)
def test_known_means(models, each, wanted):
    OpCase(
        MultislerpOp,
        models=models,
        each=weights(*each),
        expected=wanted,
        identity=[Identity(each=weights(0.5, *[0] * (len(models) - 1)), gives=0)],
        permutable=True,
    ).check()


def test_weights_that_are_not_normalized_scale_the_length():
    OpCase(
        MultislerpOp,
        {"normalize_weights": False},
        models=[[1.0, 0.0], [0.0, 1.0]],
        each=weights(2, 2),
        expected=[4 * HALF, 4 * HALF],
        identity=[Identity(each=weights(1, 0), gives=0)],
    ).check()


def test_with_a_base_the_deltas_are_averaged():
    OpCase(
        MultislerpOp,
        models=[[3.0, 1.0], [1.0, 5.0]],
        base=[1.0, 1.0],
        each=weights(1, 1),
        expected=[1 + 3 * HALF, 1 + 3 * HALF],
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize("shape", [(5,), (30, 40), (450, 300)])
@pytest.mark.parametrize("with_base", [False, True])
def test_it_equals_the_formula_in_float64(shape, with_base):
    base = normal(*shape, seed=9) if with_base else torch.zeros(shape)
    models = [base + normal(*shape, seed=seed) * (1 + seed) for seed in range(3)]
    given = [0.2, 0.3, 0.5]
    OpCase(
        MultislerpOp,
        models=models,
        base=base if with_base else None,
        each=weights(*given),
        expected=base.double() + textbook([model - base for model in models], given),
        chunks=(base.numel() // 3,),
    ).check()


def test_it_is_where_karcher_starts():
    models = [normal(50, seed=seed).abs() for seed in range(4)]
    start = run_op(KarcherOp, {"max_iter": 0}, models, each=[{}] * 4)
    assert torch.allclose(run_op(MultislerpOp, {}, models, each=weights(1, 1, 1, 1)), start, atol=1e-6)


def test_equal_models_with_a_base_give_that_model():
    model, base = normal(100), normal(100, seed=1)
    found = run_op(MultislerpOp, {}, [model, model], base, each=weights(1, 2))
    assert torch.allclose(found, model, atol=1e-6)
    assert same_bytes(run_op(MultislerpOp, {}, [base, base], base, each=weights(1, 2)), base)


def test_opposite_models_have_no_mean_direction():
    with pytest.raises(OpError) as error:
        run_op(MultislerpOp, {}, [torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -4.0])], each=weights(1, 1))
    assert str(error.value).startswith(
        "merge.multislerp: w: the directions of 2 models cancel, their mean is "
    )
    assert str(error.value).endswith(
        " long; change their weights, or leave it out with `where:` and put in that of a step of `merge.linear`, "
        "the straight line, with `merge.transplant`"
    )


def test_what_is_shorter_than_eps_has_no_direction():
    models = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.1])]
    assert run_op(MultislerpOp, {"eps": 0.5}, models, each=weights(1, 1)).tolist() == pytest.approx(
        [0.55, 0.0]
    )


@pytest.mark.parametrize(
    ("params", "each", "text"),
    [
        (
            {},
            (1, -1),
            "w: the weights 1, -1 sum to 0, which normalize_weights divides by; change one or set "
            "normalize_weights: false",
        ),
        (
            {"normalize_weights": False},
            (0, 0),
            "w: the weights are all 0, so that no model counts; give one a weight",
        ),
    ],
)
def test_weights_that_say_nothing_are_refused(params, each, text):
    with pytest.raises(OpError) as error:
        run_op(MultislerpOp, params, [torch.ones(1), torch.ones(1)], each=weights(*each))
    assert str(error.value) == text
