"""merge.iso_cts against numbers by hand, and the authors' steps in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.iso_c import iso_c
from surgery_merge.iso_cts import iso_cts, sizes
from tests.plugins.merge.matrices import ALL, ZERO, deltas_of, diag, low_rank_models, random_models


def by_numpy(models, base, common):
    """The authors' steps for full rank: sum, leading part, what each adds, orthogonal, all values the mean."""
    deltas = [delta.numpy() for delta in deltas_of(models, base)]
    rank = min(deltas[0].shape)
    own = round((rank - int(common * rank)) / len(deltas))
    shared = rank - own * len(deltas)
    U, S, Vh = np.linalg.svd(sum(deltas), full_matrices=False)
    space = U[:, :shared]
    lefts, values, rights = [space], [S[:shared]], [Vh[:shared]]
    for delta in deltas:
        U, S, Vh = np.linalg.svd(delta - space @ space.T @ delta, full_matrices=False)
        lefts.append(U[:, :own])
        values.append(S[:own])
        rights.append(Vh[:own])

    def polar(M):
        left, _, right = np.linalg.svd(M, full_matrices=False)
        return left @ right

    delta = polar(np.concatenate(lefts, 1)) @ polar(np.concatenate(rights)) * np.concatenate(values).mean()
    return base.double() + torch.from_numpy(delta).reshape(base.shape)


@pytest.mark.parametrize(
    ("rank", "models", "common", "wanted"),
    [
        (10, 2, 0.8, (8, 1)),
        (10, 3, 0.8, (7, 1)),
        (10, 4, 0.8, (10, 0)),  # half a direction for each
        (10, 2, 0.5, (6, 2)),  # two and a half for each: the even number
        (10, 2, 1, (10, 0)),
        (10, 2, 0, (0, 5)),
        (3, 2, 0, (3 - 2, 1)),
        (2, 3, 0, (2, 0)),
        (100, 1, 0.29, (29, 71)),
        (0, 2, 0.8, (0, 0)),
    ],
)
def test_the_models_share_equally_what_they_do_not_have_in_common(rank, models, common, wanted):
    assert sizes(rank, models, common) == wanted


def test_each_model_adds_the_strongest_direction_that_the_sum_lacks():
    """Of diag(8, 4, 2, 1) half is common: 8 and 4. The models add 2 and 1; the mean of 8, 4, 2, 1 is 3.75."""
    OpCase(
        iso_cts,
        {**ALL, "common": 0.5},
        models=[diag(8, 1, 2, 0), diag(0, 3, 0, 1)],
        base=torch.zeros(4, 4),
        each=[{}, {}],
        expected=diag(3.75, 3.75, 3.75, 3.75),
        identity=[Identity({"lambda": 0}, gives=-1)],
        permutable=True,
        scale_equivariant=True,
    ).check()


@pytest.mark.parametrize("mean", ["nonzero", "all"])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize(("count", "common"), [(2, 0.8), (3, 0.3)])
def test_it_equals_the_authors_steps(shape, count, common, mean):
    models, base = random_models(shape, count)
    wanted = by_numpy(models, base, common)
    given = {**ALL, "common": common, "mean": mean}
    OpCase(iso_cts, given, models=models, base=base, each=[{}] * count, expected=wanted).check()


@pytest.mark.parametrize("mean", ["nonzero", "all"])
def test_all_in_common_is_iso_c(mean):
    models, base = random_models((6, 9), 2)
    merged = run_op(iso_cts, {**ALL, "mean": mean, "common": 1}, models, base, each=[{}] * 2)
    assert torch.allclose(
        merged, run_op(iso_c, {**ALL, "mean": mean}, models, base, each=[{}] * 2), atol=1e-6
    )


def test_low_rank_deltas_stay_in_their_space_and_every_direction_is_as_strong():
    models, base = low_rank_models((12, 16), 2, rank=3)
    merged = run_op(iso_cts, {**ALL, "common": 0.4}, models, base, each=[{}] * 2)
    delta, space = merged - base, torch.linalg.svd(sum(deltas_of(models, base)))[0][:, :6]
    values = torch.linalg.svdvals(delta)
    assert torch.allclose(values[:6], values[0].expand(6))
    assert values[6:].max() < 1e-12
    assert torch.allclose(space @ (space.T @ delta), delta, atol=1e-12)


def test_deltas_that_cancel_leave_the_base():
    assert same_bytes(run_op(iso_cts, ALL, [diag(1, 2), diag(-1, -2)], ZERO, each=[{}, {}]), ZERO)
