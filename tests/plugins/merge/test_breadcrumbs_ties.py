"""merge.breadcrumbs_ties: the band of merge.breadcrumbs, then the election of merge.ties."""

from __future__ import annotations

import pytest
import torch

from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.breadcrumbs import BreadcrumbsOp
from surgery_merge.breadcrumbs_ties import BreadcrumbsTiesOp
from surgery_merge.ties import TiesOp


def models_and_base(shape, count):
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(shape, generator=generator)
    return [base + torch.randn(shape, generator=generator) for _ in range(count)], base


def test_the_election_is_held_on_what_is_left():
    """9 and -9 are gone as outliers, 1 and -1 as small: nothing is left of the first place to vote on."""
    OpCase(
        BreadcrumbsTiesOp,
        models=[[9.0, 3.0, 2.0, 1.0], [-9.0, 2.0, -1.0, -4.0]],
        base=[0.0] * 4,
        each=[{"density": 0.5, "gamma": 0.25}] * 2,
        expected=[0, 5, 2, -4],
        tolerance=0,
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0}, {"density": 0.2}], gives=BASE),
            Identity({"normalize": True}, each=[{"density": 0}, {"density": 1, "weight": 3}], gives=1),
        ],
        scale_equivariant=True,
        permutable=True,
    ).check()


@pytest.mark.parametrize("elect", ["mass", "count"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rescale", ["none", "l1"])
def test_without_outliers_it_is_ties(normalize, elect, rescale):
    models, base = models_and_base((31, 7), 3)
    each = [{"density": 0.4, "weight": weight} for weight in (1.0, 0.5, -0.3)]
    settings = {"normalize": normalize, "elect": elect, "rescale": rescale, "lambda": 0.7}
    merged = run_op(BreadcrumbsTiesOp, settings, models, base, each=[entry | {"gamma": 0} for entry in each])
    assert same_bytes(merged, run_op(TiesOp, settings, models, base, each=each))


@pytest.mark.parametrize("rescale", ["none", "l1"])
@pytest.mark.parametrize("normalize", [True, False])
def test_it_elects_among_the_bands(rescale, normalize):
    models, base = models_and_base((2000,), 2)
    each = [{"density": 0.5, "gamma": 0.1, "weight": 1.0}, {"density": 0.3, "gamma": 0.05, "weight": 0.6}]
    kept = [
        run_op(
            BreadcrumbsOp, {"rescale": rescale}, [(m - base)], 0 * base, each=[{**e, "weight": 1}]
        ).double()
        for m, e in zip(models, each, strict=True)
    ]
    votes = [kept[0], 0.6 * kept[1]]
    sign = torch.where(votes[0] + votes[1] >= 0, 1, -1)
    agrees = [vote.sign() == sign for vote in votes]
    mixed = sum(torch.where(mask, vote, 0) for mask, vote in zip(agrees, votes, strict=True))
    if normalize:
        mixed /= (agrees[0] * 1.0 + agrees[1] * 0.6).where(agrees[0] | agrees[1], 1)
    settings = {"rescale": rescale, "normalize": normalize}
    merged = run_op(BreadcrumbsTiesOp, settings, models, base, each=each, chunk=300)
    assert torch.allclose(merged.double(), base + mixed, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6, 50)])
@pytest.mark.parametrize("settings", [{}, {"rescale": "l1"}, {"scope": "model"}], ids=str)
def test_the_laws_hold(shape, settings):
    models, base = models_and_base(shape, 2)
    OpCase(
        BreadcrumbsTiesOp,
        {"normalize": True, **settings},
        models=models,
        base=base,
        each=[{"density": 0.5, "gamma": 0.1, "weight": 0.5}, {"density": 0.9}],
        chunks=(1, 8, 100),
    ).check()
