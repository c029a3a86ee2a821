"""merge.boost against numbers by hand and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgery.testing import Identity, OpCase, run_op
from surgery_merge.boost import boost
from tests.plugins.merge.matrices import ALL, ZERO, by_svd, deltas_of, diag, low_rank_models, random_models


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (0, (4, 4, 4)),
        (0.01, (4, 4, 4)),
        (4 / 8, (4, 4, 4)),
        (0.51, (4, 3, 3)),
        (7 / 8, (4, 3, 3)),
        (0.9, (4, 3, 1)),
        (1, (4, 3, 1)),
    ],
)
def test_of_4_3_1_the_values_after_the_share_are_raised(share, wanted):
    """Their sum is 8: 4 of 8 with the first, 7 of 8 with the second."""
    OpCase(
        boost,
        {**ALL, "share": share},
        models=[diag(4, 1, 1), diag(0, 2, 0)],
        base=torch.zeros(3, 3),
        each=[{}, {}],
        expected=diag(*wanted),
        identity=[Identity({"lambda": 0}, gives=-1)],
        permutable=True,
        scale_equivariant=True,
    ).check()


def test_a_direction_that_is_not_there_is_not_made_up():
    for models, wanted in (([diag(3, 0)], diag(3, 0)), ([diag(1, 0), diag(-1, 0)], ZERO)):
        OpCase(boost, ALL, models=models, base=ZERO, each=[{}] * len(models), expected=wanted).check()


def test_weights_and_lambda_scale_what_is_added():
    given = {**ALL, "share": 0.9, "lambda": 0.5}
    each = [{"weight": 2}, {"weight": -1}]
    models = [diag(2, 1), diag(1, 1)]
    OpCase(boost, given, models=models, base=ZERO, each=each, expected=diag(1.5, 0.5)).check()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (6, 3, 2, 2)])
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_it_equals_numpy(shape, share):
    models, base = random_models(shape, 3)

    def raised(S):
        return np.maximum(S, S[np.nonzero(np.cumsum(S) / S.sum() >= share)[0][0]])

    wanted = base.double() + by_svd(sum(deltas_of(models, base)), raised).reshape(shape)
    given = {**ALL, "share": share}
    OpCase(boost, given, models=models, base=base, each=[{}] * 3, expected=wanted).check()


def test_low_rank_deltas_keep_their_rank():
    models, base = low_rank_models((9, 12), 2, rank=2)
    values = torch.linalg.svdvals(run_op(boost, ALL, models, base, each=[{}] * 2) - base)
    assert torch.allclose(values[:4], values[0].expand(4))
    assert values[4:].max() < 1e-12


def test_everything_else_is_task_arithmetic():
    merged = run_op(
        boost, {"lambda": 0.5}, [torch.tensor([3.0]), torch.tensor([2.0])], torch.ones(1), each=[{}] * 2
    )
    assert merged.tolist() == [2.5]
