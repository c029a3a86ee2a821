"""merge.tsvm against numbers by hand, and the paper's formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from surgery.testing import Identity, OpCase, run_op
from surgery_merge.tsvm import kept, tsvm
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, low_rank_models, noise, random_models


def whitened(models, base, keep):
    """The paper's merge in numpy, with U and V of full column rank; `keep` directions of each model."""
    parts = []
    keeps = keep if isinstance(keep, list) else [keep] * len(models)
    for delta, k in zip(deltas_of(models, base), keeps, strict=True):
        U, S, Vh = np.linalg.svd(delta.numpy(), full_matrices=False)
        parts.append((U[:, :k], S[:k], Vh[:k]))
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


def changed(delta):
    """(Σ|τ|)²/(n·Στ²) by numpy."""
    return np.abs(delta).sum() ** 2 / (delta.size * np.square(delta).sum())


def test_adaptive_gives_more_directions_to_models_that_changed_more_elements():
    """(Σ|τ|)²/Στ² is 25/25 and 36/12: of four directions the second model gets three, where halves would cut one."""
    given = {"models": [diag(5, 0, 0, 0), diag(0, 2, 2, 2)], "base": torch.zeros(4, 4), "each": [{}, {}]}
    OpCase(
        tsvm,
        {**ALL, "fraction": "adaptive"},
        **given,
        expected=diag(5, 2, 2, 2),
        identity=[Identity(each=[{}, {"weight": 0}], gives=0)],
        permutable=True,
        scale_equivariant=True,
    ).check()
    halves = run_op(tsvm, ALL, [one.float() for one in given["models"]], given["base"], each=[{}, {}])
    assert torch.linalg.matrix_rank(halves) == 3


def test_adaptive_is_equal_shares_where_models_changed_alike():
    """Three of six directions: two each, though a third is no binary number."""
    delta = noise(6, 6)
    models = [delta, delta.flip(0), delta.flip(1)]
    given = {"base": torch.zeros(6, 6), "each": [{}] * 3}
    adaptive = run_op(tsvm, {**ALL, "fraction": "adaptive"}, models, **given)
    assert torch.allclose(adaptive, run_op(tsvm, ALL, models, **given), atol=1e-12)


def test_adaptive_leaves_every_model_a_direction_and_of_nothing_makes_nothing():
    models = [diag(7, 0), torch.ones(2, 2), ZERO]
    merged = run_op(tsvm, {**ALL, "fraction": "adaptive"}, models, ZERO, each=[{}] * 3)
    assert torch.linalg.matrix_rank(merged) == 2
    assert torch.equal(run_op(tsvm, {**ALL, "fraction": "adaptive"}, [ZERO] * 2, ZERO, each=[{}] * 2), ZERO)


def test_outliers_are_cut_to_so_many_standard_deviations():
    """Of 10 and nine zeros the mean is 1 and the deviation 3: two of them leave 7, three leave 10."""
    models = [torch.zeros(2, 5).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(10.0))]
    given = {"models": models, "base": torch.zeros(2, 5), "each": [{}]}
    clip = {**ALL, "reweight": "sigma_clip"}
    for sigmas, left in ((2, 7.0), (1, 4.0), (3, 10.0)):
        expected = [[left, 0, 0, 0, 0], [0] * 5]
        OpCase(tsvm, {**clip, "sigmas": sigmas}, **given, expected=expected, scale_equivariant=True).check()


def test_an_outlier_no_longer_takes_the_leading_direction():
    """An element of 100 in a delta of ones, of which one direction is kept: without the cut that is the element's."""
    delta = torch.ones(20, 20)
    delta[3, 4] = 100.0
    one = {**ALL, "fraction": 0.05}
    as_it_is = run_op(tsvm, one, [delta], torch.zeros(20, 20), each=[{}])
    cut = run_op(tsvm, {**one, "reweight": "sigma_clip"}, [delta], torch.zeros(20, 20), each=[{}])
    assert as_it_is[10, 10] < 0.2
    assert cut[10, 10] > 0.7


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 5, 2, 2)])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("sigmas", [3.0, 1.0])
def test_both_rules_equal_numpy(shape, count, sigmas):
    models, base = random_models(shape, count)
    models[0] = base + 0.01 * noise(*shape, seed=77).pow(7).float()  # few large changes
    cut = []
    for delta in deltas_of(models, base):
        tau = delta.numpy()
        cut.append(np.clip(tau, tau.mean() - sigmas * tau.std(), tau.mean() + sigmas * tau.std()))
    small, whole = min(cut[0].shape), sum(changed(tau) for tau in cut)
    keep = [max(1, int(small * changed(tau) / whole + 1e-9)) for tau in cut]
    assert len(set(keep)) > 1
    restored = [base.double() + torch.from_numpy(tau).reshape(base.shape) for tau in cut]
    OpCase(
        tsvm,
        {**ALL, "fraction": "adaptive", "reweight": "sigma_clip", "sigmas": sigmas},
        models=models,
        base=base,
        each=[{}] * count,
        expected=whitened(restored, base, keep),
    ).check()


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError) as error:
        tsvm.params.model_validate({"fraction": "adapted"})
    assert "Input should be 'adaptive'" in str(error.value)
