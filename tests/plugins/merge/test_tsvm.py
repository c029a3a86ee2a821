"""merge.tsvm against numbers by hand, and the paper's formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import Identity, OpCase, run_op
from surgery_merge.tsvm import kept, tsvm
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, low_rank_models, random_models


def whitened(models, base, keep):
    """The paper's merge in numpy, with U and V of full column rank."""
    parts = []
    for delta in deltas_of(models, base):
        U, S, Vh = np.linalg.svd(delta.numpy(), full_matrices=False)
        parts.append((U[:, :keep], S[:keep], Vh[:keep]))
    sides = (np.concatenate([U for U, _, _ in parts], 1), np.concatenate([Vh for _, _, Vh in parts]))
    polars = []
    for side in sides:
        left, _, right = np.linalg.svd(side, full_matrices=False)
        polars.append(left @ right)
    delta = (polars[0] * np.concatenate([S for _, S, _ in parts])) @ polars[1]
    return base.double() + torch.from_numpy(delta).reshape(base.shape)


def test_directions_of_their_own_add_up():
    OpCase(
        tsvm,
        ALL,
        models=[diag(2, 0), diag(0, 3)],
        base=ZERO,
        each=[{}, {}],
        expected=diag(2, 3),
        identity=[
            Identity({"lambda": 0}, gives=-1),
            Identity(each=[{}, {"weight": 0}], gives=0),
            Identity({"lambda": 0.5, "fraction": 1}, each=[{"weight": 0}, {"weight": 2}], gives=1),
        ],
        permutable=True,
        scale_equivariant=True,
    ).check()


def test_a_direction_that_two_models_share_counts_once_and_none_is_made_up():
    """polar([e1, e1]) of full rank would have an e2, and the result would be 2·I."""
    given = {"models": [diag(2, 0), diag(2, 0)], "base": ZERO, "each": [{}, {}]}
    OpCase(tsvm, ALL, **given, expected=diag(2, 0)).check()


def test_of_each_model_only_the_leading_directions_are_kept():
    models = [diag(5, 4, 0, 0), diag(0, 0, 3, 1)]
    given = {"models": models, "base": torch.zeros(4, 4), "each": [{}, {}]}
    OpCase(tsvm, ALL, **given, expected=diag(5, 4, 3, 1)).check()
    OpCase(tsvm, {**ALL, "fraction": 0.25}, **given, expected=diag(5, 0, 3, 0)).check()


@pytest.mark.parametrize(
    ("shape", "models", "fraction", "wanted"),
    [
        ((8, 6), 2, None, 3),
        ((8, 6), 4, None, 1),
        ((8, 6), 9, None, 1),
        ((8, 6), 9, 0.5, 3),
        ((8, 6), 9, 0.1, 1),
        ((100, 200), 2, 0.29, 29),
    ],
)
def test_there_is_always_a_direction_left(shape, models, fraction, wanted):
    assert kept(shape, models, fraction) == wanted


def test_more_models_than_directions_still_merge():
    """Three models of a 2 × 2 matrix: ⌊2/3⌋ directions would be nothing at all."""
    merged = run_op(tsvm, ALL, [diag(2, 0), diag(0, 3), diag(2, 0)], ZERO, each=[{}] * 3)
    assert torch.allclose(merged, diag(2, 3))


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_it_equals_the_paper_on_full_rank(shape, count):
    models, base = random_models(shape, count)
    keep = min(shape[0], base[0].numel()) // count
    wanted = whitened(models, base, keep)
    OpCase(tsvm, ALL, models=models, base=base, each=[{}] * count, expected=wanted).check()


def test_low_rank_deltas_bring_no_noise_into_each_other():
    """Rank 2 of 12: ⌊12/2⌋ directions of each would be four parts noise."""
    models, base = low_rank_models((12, 16), 2, rank=2)
    merged = run_op(tsvm, ALL, models, base, each=[{}] * 2)
    assert torch.allclose(merged, whitened(models, base, 2), atol=1e-10)
    assert torch.linalg.matrix_rank(merged - base, rtol=1e-9) == 4


def test_singular_directions_come_out_orthogonal():
    """The strongest direction of each model is as strong in the result, or nearly: they no longer interfere."""
    models, base = random_models((40, 40), 2)
    values = torch.linalg.svdvals(whitened(models, base, 20) - base)
    merged = run_op(tsvm, ALL, models, base, each=[{}] * 2).double() - base
    each = torch.cat([torch.linalg.svdvals((m - base).double())[:20] for m in models]).sort(descending=True)[
        0
    ]
    assert torch.allclose(torch.linalg.svdvals(merged), values, rtol=1e-4)
    assert torch.allclose(values, each, rtol=1e-9)
