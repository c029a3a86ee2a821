"""merge.regmean against numbers by hand, the loss that it minimises, and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.errors import OpError
from surgery.ops import Signature
from surgery.tensors import Role, TensorSpec
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.regmean import regmean
from tests.plugins.merge.matrices import diag, noise

EXACT = {"targets": "all", "ridge": 0, "alpha": 1}
EACH = [{"gram": "g"}, {"gram": "h"}]
IN_A_BLOCK = Role("mlp.up", 0)


def case(models, grams, params, **more):
    return OpCase(regmean, params, models=models, each=EACH, companions={"gram": grams}, **more)


def drawn(count, rows=6, width=9, tokens=40):
    models = [noise(rows, width, seed=i).float() for i in range(count)]
    inputs = [noise(tokens, width, seed=50 + i) @ noise(width, width, seed=90 + i) for i in range(count)]
    return models, inputs


def test_each_input_comes_from_the_model_that_has_seen_it():
    models = [[[1.0, 9.0]], [[9.0, 2.0]]]
    case(models, [diag(1, 0), diag(0, 1)], EXACT, expected=[[1.0, 2.0]], scale_equivariant=True).check()


def test_equal_inputs_are_the_mean():
    gram = [[2.0, 1.0], [1.0, 3.0]]
    case([[[1.0, 9.0]], [[3.0, 5.0]]], [gram, gram], EXACT, expected=[[2.0, 7.0]]).check()


def test_without_what_is_off_the_diagonals_each_input_is_weighted_by_itself():
    """(1·1 + 3·3)/(1 + 3) = 2.5 and (9·2 + 5·2)/4 = 7."""
    grams = [[[1.0, 0.9], [0.9, 2.0]], [[3.0, -1.0], [-1.0, 2.0]]]
    case([[[1.0, 9.0]], [[3.0, 5.0]]], grams, {**EXACT, "alpha": 0}, expected=[[2.5, 7.0]]).check()


def test_weights_scale_what_models_have_read():
    each = [{"gram": "g", "weight": 3.0}, {"gram": "h"}]
    models, grams = [[[1.0]], [[5.0]]], [[[2.0]], [[2.0]]]
    OpCase(regmean, EXACT, models=models, each=each, companions={"gram": grams}, expected=[[2.0]]).check()


def test_inputs_that_nobody_has_seen_get_the_mean_of_the_models():
    grams = [diag(1, 0), diag(3, 0)]
    case(
        [[[4.0, 1.0]], [[8.0, 5.0]]], grams, {"targets": "all"}, expected=[[7.0, 3.0]], tolerance=1e-5
    ).check()


def test_matrices_in_float64_keep_their_diagonals():
    """`alpha` goes on a copy: on the matrix itself it would be on the diagonal too when that is put back."""
    models = [torch.tensor([[1.0, 9.0]]).double(), torch.tensor([[3.0, 5.0]]).double()]
    grams = [
        torch.tensor([[1.0, 0.5], [0.5, 2.0]]).double(),
        torch.tensor([[3.0, -1.0], [-1.0, 2.0]]).double(),
    ]
    case(models, grams, {**EXACT, "alpha": 0}, expected=[[2.5, 7.0]]).check()


def test_models_that_have_read_nothing_are_averaged():
    case([[[4.0, 1.0]], [[8.0, 5.0]]], [diag(0, 0)] * 2, {"targets": "all"}, expected=[[6.0, 3.0]]).check()


def test_a_large_ridge_draws_to_the_mean():
    """right = -4·1 + 4·0 = -4 of the mean 5, system 1 + 0.1·(1 + 1)/2 = 1.1: 5 - 4/1.1."""
    models, grams = [[[1.0, 9.0]], [[9.0, 2.0]]], [diag(1, 0), diag(0, 1)]
    expected = [[5 - 4 / 1.1, 5.5 - 3.5 / 1.1]]
    case(models, grams, {**EXACT, "ridge": 0.1}, expected=expected).check()


def test_a_ridge_above_what_is_tried_by_itself_is_taken_as_it_is():
    """System 1 + 1·(1 + 1)/2 = 2: 5 - 4/2 and 5.5 - 3.5/2."""
    models, grams = [[[1.0, 9.0]], [[9.0, 2.0]]], [diag(1, 0), diag(0, 1)]
    case(models, grams, {**EXACT, "ridge": 1.0}, expected=[[3.0, 3.75]]).check()


def test_a_model_of_its_own_is_copied_and_models_that_agree_keep_their_bytes():
    (a, b), inputs = drawn(2)
    grams = [(x.T @ x).float() for x in inputs]
    copied = Identity(each=[EACH[0], {"gram": "h", "weight": 0}])
    case([a, b], grams, {"targets": "all"}, identity=[copied]).check()
    merged = run_op(regmean, {"targets": "all"}, [a, a], each=EACH, companions={"gram": tuple(grams)})
    assert same_bytes(merged, a)


@pytest.mark.parametrize("alpha", [0.9, 0.5])
@pytest.mark.parametrize("count", [2, 4])
def test_it_equals_the_solution_by_numpy(alpha, count):
    models, inputs = drawn(count)
    grams = [(x.T @ x).float() for x in inputs]
    weights = [1.0, 0.5, 2.0, 1.5][:count]
    shrunk = [
        w * (alpha * g.double() + (1 - alpha) * torch.diag(g.double().diagonal())).numpy()
        for w, g in zip(weights, grams, strict=True)
    ]
    ridge = 1e-6 * np.trace(sum(shrunk)) / 9 * np.eye(9)
    mean = sum(w * m.double().numpy() for w, m in zip(weights, models, strict=True)) / sum(weights)
    right = sum(m.double().numpy() @ g for m, g in zip(models, shrunk, strict=True)) + mean @ ridge
    wanted = np.linalg.solve(sum(shrunk) + ridge, right.T).T
    each = [{"gram": "g", "weight": weight} for weight in weights]
    OpCase(
        regmean,
        {"targets": "all", "alpha": alpha},
        models=models,
        each=each,
        companions={"gram": grams},
        expected=wanted,
        permutable=True,
    ).check()


def test_no_step_from_the_minimum_lowers_the_loss():
    models, inputs = drawn(3)
    grams = tuple(x.T @ x for x in inputs)

    def loss(merged):
        return sum(
            float((x @ (merged.double() - m.double()).T).square().sum())
            for x, m in zip(inputs, models, strict=True)
        )

    merged = run_op(regmean, EXACT, models, each=[EACH[0]] * 3, companions={"gram": grams})
    least, mean = loss(merged), sum(models) / 3
    assert least < 0.9 * loss(mean)
    for seed in range(5):
        assert loss(merged + 1e-2 * noise(6, 9, seed=200 + seed)) > least


def test_vectors_and_tensors_without_a_gram_matrix_are_averaged():
    case([[1.0, 2.0], [3.0, 8.0]], [None, None], {}, expected=[2.0, 5.0]).check()
    case([[[1.0]], [[3.0]]], [None, [[1.0]]], {"targets": "all"}, expected=[[2.0]]).check()
    case([noise(3, 2, 2).float()] * 2, [None, None], {}, expected=noise(3, 2, 2)).check()


def test_a_system_that_float64_cannot_factor_gets_a_larger_ridge():
    """Rank one: 1·1ᵀ has the eigenvalues 2 and 0; what the ridge adds leaves the mean in the unseen direction."""
    gram = [[0.5, 0.5], [0.5, 0.5]]  # the sum is 1·1ᵀ, whose second pivot is 0 to the last bit
    merged = [[2.0, 4.0]]
    case([[[1.0, 3.0]], [[3.0, 5.0]]], [gram, gram], EXACT, expected=merged).check()


@pytest.mark.parametrize(
    ("grams", "ridge", "noted"),
    [
        ([diag(1, 2), diag(2, 1)], 1e-6, {"ridge": 1e-6}),
        ([[[0.5, 0.5], [0.5, 0.5]]] * 2, 0, {"ridge": 1e-12}),
        ([diag(0, 0)] * 2, 1e-6, {}),
        ([None, diag(1, 1)], 1e-6, {}),
    ],
    ids=["as given", "raised", "nothing read", "averaged"],
)
def test_the_ridge_that_a_system_needed_is_noted(grams, ridge, noted):
    notes, given = {}, tuple(None if gram is None else torch.as_tensor(gram) for gram in grams)
    models = [torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 5.0]])]
    params = {**EXACT, "ridge": ridge}
    run_op(regmean, params, models, each=EACH, companions={"gram": given}, notes=notes)
    assert notes == noted


def test_what_is_no_gram_matrix_is_refused():
    with pytest.raises(OpError) as error:
        run_op(regmean, EXACT, [torch.ones(1, 2)] * 2, each=EACH, companions={"gram": (diag(1, -1),) * 2})
    assert str(error.value) == (
        "w: the sum of its `gram` matrices is not positive definite with a ridge of 0.1; "
        "Gram matrices XᵀX are, check what the models' entries name"
    )


def test_weights_of_nothing_are_refused():
    with pytest.raises(OpError, match=r"^w: the weights of all models are 0; change one$"):
        run_op(regmean, {}, [torch.ones(2)] * 2, each=[{"gram": "g", "weight": 0}] * 2)


@pytest.mark.parametrize(
    ("shape", "role", "targets", "wanted"),
    [
        ((6, 4), IN_A_BLOCK, "linear", (4, 4)),
        ((6, 4), Role("head"), "linear", None),
        ((6, 4), Role("head"), "all", (4, 4)),
        ((6, 4), Role("embed"), "all", None),
        ((4,), Role("norm", 0), "all", None),
        ((), Role(), "all", None),
        ((3, 6, 4), Role("experts.up", 0), "linear", None),
    ],
)
def test_linears_have_gram_matrices_of_their_inputs(shape, role, targets, wanted):
    spec = TensorSpec("x.weight", shape, "F32")
    signature = Signature(spec.name, (spec,), None, (), role, spec.numel)
    params = regmean.params(targets=targets)
    assert regmean.companions["gram"].shape(signature, params) == wanted
    assert regmean.workspace(signature, params) >= 8 * spec.numel
