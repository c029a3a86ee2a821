"""merge.star against numbers by hand, merge.iso_c and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import Identity, OpCase, run_op
from surgery_merge.iso_c import iso_c
from surgery_merge.star import star
from tests.plugins.merge.matrices import ALL, ZERO, by_svd, deltas_of, diag, low_rank_models, random_models


@pytest.mark.parametrize(
    ("share", "values", "wanted"),
    [
        (0.4, "sum", (8, 0, 0)),
        (0.5, "sum", (8, 0, 0)),
        (0.51, "sum", (4 * 8 / 7, 3 * 8 / 7, 0)),
        (0.51, "keep", (4, 3, 0)),
        (0.51, "flat", (3.5, 3.5, 0)),
        (1, "sum", (4, 3, 1)),
        (1, "keep", (4, 3, 1)),
        (1, "flat", (8 / 3, 8 / 3, 8 / 3)),
        (0, "sum", (0, 0, 0)),
    ],
)
def test_of_4_3_1_the_leading_values_are_kept_and_take_the_place_of_the_others(share, values, wanted):
    """Their sum is 8: half of it is reached with the first, 7/8 with the second."""
    OpCase(
        star,
        {**ALL, "share": share, "values": values},
        models=[diag(4, 3, 1)],
        base=torch.zeros(3, 3),
        each=[{}],
        expected=diag(*wanted),
        identity=[Identity({"lambda": 0}, gives=-1)],
        permutable=True,
        scale_equivariant=True,
    ).check()


def test_a_fraction_counts_directions():
    given = {"models": [diag(4, 3, 2, 1)], "base": torch.zeros(4, 4), "each": [{}]}
    for fraction, wanted in ((0.5, (4, 3, 0, 0)), (0.1, (4, 0, 0, 0)), (1, (4, 3, 2, 1))):
        given_here = {**ALL, "fraction": fraction, "values": "keep"}
        OpCase(star, given_here, **given, expected=diag(*wanted)).check()


def test_deltas_are_cut_one_by_one_and_averaged():
    given = {"models": [diag(3, 1), diag(2, 6)], "base": ZERO}
    OpCase(star, ALL, **given, each=[{}, {}], expected=diag(2, 4)).check()
    OpCase(star, ALL, **given, each=[{"weight": 3}, {"weight": -1}], expected=diag(6, -4)).check()
    OpCase(star, {**ALL, "lambda": 2}, **given, each=[{}, {"weight": 0}], expected=diag(8, 0)).check()


def test_a_model_of_which_all_is_kept_is_copied():
    given = {"models": [diag(3, 1), diag(2, 6)], "base": ZERO, "each": [{"weight": 0}, {}]}
    whole = [Identity(each=given["each"], gives=1)]
    OpCase(star, {**ALL, "share": 1}, **given, expected=diag(2, 6), identity=whole).check()


def test_a_flat_spectrum_of_one_delta_is_iso_c():
    models, base = random_models((20, 30), 1)
    flat = run_op(star, {**ALL, "share": 1, "values": "flat"}, models, base, each=[{}])
    assert torch.equal(flat, run_op(iso_c, ALL, models, base, each=[{}]))


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
def test_it_equals_numpy_and_the_sum_of_singular_values_stays(shape):
    models, base = random_models(shape, 3)

    def cut(S):
        k = np.nonzero(np.cumsum(S) / S.sum() >= 0.4)[0][0] + 1
        return np.where(np.arange(len(S)) < k, S * S.sum() / S[:k].sum(), 0)

    parts = [by_svd(delta, cut) for delta in deltas_of(models, base)]
    wanted = base.double() + (sum(parts) / 3).reshape(shape)
    OpCase(star, ALL, models=models, base=base, each=[{}] * 3, expected=wanted).check()
    before, after = (torch.linalg.svdvals(x).sum() for x in (deltas_of(models, base)[0], parts[0]))
    assert torch.isclose(before, after)


def test_rounding_noise_is_no_direction():
    models, base = low_rank_models((9, 12), 1, rank=2)
    made = run_op(star, {**ALL, "share": 1, "values": "flat"}, models, base, each=[{}])
    assert torch.linalg.svdvals(made - base)[2:].max() < 1e-12
