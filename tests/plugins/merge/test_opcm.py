"""merge.opcm against numbers by hand, and the authors' steps with full bases in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import surgery
from surgery import RunOptions
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.opcm import opcm
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, low_rank_models, noise, random_models

PLAIN = {**ALL, "rescale": "none"}


def by_numpy(models, base, alpha):
    """The authors' steps for a merged delta of full rank: full bases, zeros, back."""
    deltas = [delta.numpy() for delta in deltas_of(models, base)]
    M = deltas[0]
    for delta in deltas[1:]:
        U, S, Vh = np.linalg.svd(M, full_matrices=True)
        over = np.nonzero(np.cumsum(S) / S.sum() > alpha)[0]
        projected = U.T @ delta @ Vh.T
        np.fill_diagonal(projected, 0)
        projected[: over[0], : over[0]] = 0
        M = M + U @ projected @ Vh
    return M, np.mean([np.linalg.norm(delta) for delta in deltas]) / np.linalg.norm(M)


def test_what_is_added_leaves_out_the_diagonal():
    """Shares of 3, 2, 1: 1/2, 5/6, 1. The first is not more than a half, and has no neighbour to protect."""
    OpCase(
        opcm,
        PLAIN,
        models=[diag(3, 2, 1), torch.ones(3, 3)],
        base=torch.zeros(3, 3),
        each=[{}, {}],
        expected=[[3, 1, 1], [1, 2, 1], [1, 1, 1]],
        identity=[
            Identity({"lambda": 0}, gives=-1),
            Identity(each=[{"weight": 0}, {}], gives=1),
            Identity({"lambda": 0.5}, each=[{"weight": 2}, {"weight": 0}], gives=0),
        ],
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize(
    ("alpha", "wanted"),
    [
        (0, [[3, 1, 1], [1, 2, 1], [1, 1, 1]]),
        (5 / 6, [[3, 0, 1], [0, 2, 1], [1, 1, 1]]),
        (1, [[3, 0, 0], [0, 2, 0], [0, 0, 1]]),
    ],
)
def test_alpha_protects_rows_and_columns_of_the_leading_directions(alpha, wanted):
    models = [diag(3, 2, 1), torch.ones(3, 3)]
    given = {"models": models, "base": torch.zeros(3, 3), "each": [{}, {}]}
    OpCase(opcm, {**PLAIN, "alpha": alpha}, **given, expected=wanted).check()


def test_the_norm_is_the_mean_of_the_models_norms():
    """√14 and 3 of diag(3, 2, 1) and ones; the merge of them has √20."""
    models = [diag(3, 2, 1), torch.ones(3, 3)]
    merged = run_op(opcm, ALL, models, torch.zeros(3, 3), each=[{}, {}])
    assert merged.norm() == pytest.approx((14**0.5 + 3) / 2)
    assert merged[0].tolist() == pytest.approx([x * (14**0.5 + 3) / 2 / 20**0.5 for x in (3, 1, 1)])


@pytest.mark.parametrize(("rescale", "wanted"), [("tensor", [2.1, 2.8]), ("none", [3, 4])])
def test_what_is_no_matrix_is_summed_and_rescaled_alike(rescale, wanted):
    """[3, 0] and [0, 4] of norms 3 and 4, mean 3.5, sum [3, 4] of norm 5."""
    models = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    OpCase(opcm, {"rescale": rescale}, models=models, base=[0.0, 0.0], each=[{}, {}], expected=wanted).check()


def test_vectors_that_cancel_leave_the_base():
    merged = run_op(opcm, {}, [torch.ones(2), -torch.ones(2)], torch.zeros(2), each=[{}, {}])
    assert same_bytes(merged, torch.zeros(2))


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_it_equals_the_authors_steps(shape, alpha):
    models, base = random_models(shape, 3)
    M, factor = by_numpy(models, base, alpha)
    for rescale, scale in (("none", 1.0), ("tensor", factor)):
        wanted = base.double() + torch.from_numpy(0.5 * scale * M).reshape(shape)
        given = {**ALL, "alpha": alpha, "rescale": rescale, "lambda": 0.5}
        OpCase(opcm, given, models=models, base=base, each=[{}] * 3, expected=wanted).check()


def test_order_matters_and_adding_later_is_adding_at_once():
    models, base = random_models((7, 9), 3, dtype=torch.float64)
    at_once = run_op(opcm, PLAIN, models, base, each=[{}] * 3)
    first = run_op(opcm, PLAIN, models[:2], base, each=[{}] * 2)
    assert torch.allclose(run_op(opcm, PLAIN, [first, models[2]], base, each=[{}] * 2), at_once)
    assert not torch.allclose(run_op(opcm, PLAIN, models[::-1], base, each=[{}] * 3), at_once, atol=1e-4)
    by_name = {"b": models[0], "a": models[1], "c": models[2]}
    assert same_bytes(run_op(opcm, PLAIN, by_name, base), at_once)


def test_the_papers_norm_of_the_whole_model_is_a_step_of_its_own(tmp_path):
    names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    files = {
        which: {names[0]: noise(6, 5, seed=seed), names[1]: noise(5, seed=9 + seed)}
        for seed, which in enumerate(("base", "a", "b"))
    }
    for which, tensors in files.items():
        (tmp_path / which).mkdir()
        save_file(tensors, tmp_path / which / "model.safetensors")
    document = {
        "surgery": 1,
        "models": {which: f"./{which}" for which in files},
        "steps": {
            "m": {"op": "merge.opcm", "base": "base", "models": ["b", "a"], "rescale": "none"},
            "n": {"op": "merge.renorm", "base": "base", "models": ["m", "b", "a"], "scope": "model"},
        },
        "output": {"model": "n", "to": "./out"},
    }
    surgery.loads(yaml.safe_dump(document, sort_keys=False), folder=tmp_path).run(RunOptions(device="cpu"))
    merged = load_file(tmp_path / "out" / "model.safetensors")

    def norm(tensors):
        return sum(((tensors[name] - files["base"][name]) ** 2).sum() for name in names) ** 0.5

    assert norm(merged) == pytest.approx((norm(files["a"]) + norm(files["b"])) / 2)
    M, _ = by_numpy([files["b"][names[0]], files["a"][names[0]]], files["base"][names[0]], 0.5)
    delta = (merged[names[0]] - files["base"][names[0]]).numpy()
    assert np.allclose(delta / np.linalg.norm(delta), M / np.linalg.norm(M))


def test_directions_that_are_not_there_take_nothing_away():
    """M = diag(2, 0) has one direction; the second diagonal number of the next delta is new."""
    OpCase(
        opcm,
        PLAIN,
        models=[diag(2, 0), torch.ones(2, 2)],
        base=ZERO,
        each=[{}, {}],
        expected=[[2, 1], [1, 1]],
    ).check()
    models, base = low_rank_models((9, 12), 2, rank=2)
    first, second = deltas_of(models, base)
    added = run_op(opcm, PLAIN, models, base, each=[{}] * 2) - base - first
    U, _, Vh = torch.linalg.svd(first)
    assert torch.allclose(
        U.T @ (added - second) @ Vh.T,
        torch.nn.functional.pad(-(U[:, :2].T @ second @ Vh[:2].T).diagonal().diag(), (0, 10, 0, 7)),
        atol=1e-12,
    )
