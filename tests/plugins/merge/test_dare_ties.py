"""merge.dare_ties: random drops, then the election of merge.ties."""

from __future__ import annotations

import pytest
import torch

from surgery.math.random import keep, stream_key
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.dare_ties import DareTiesOp
from surgery_merge.ties import TiesOp


def models_and_base(shape, count):
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(shape, generator=generator)
    return [base + torch.randn(shape, generator=generator) for _ in range(count)], base


@pytest.mark.parametrize("elect", ["mass", "count"])
@pytest.mark.parametrize("normalize", [True, False])
def test_at_density_one_it_is_ties(normalize, elect):
    models, base = models_and_base((31, 7), 3)
    each = [{"density": 1, "weight": weight} for weight in (1.0, 0.5, -0.3)]
    settings = {"normalize": normalize, "elect": elect, "lambda": 0.7}
    merged = run_op(DareTiesOp, settings, models, base, each=each)
    assert same_bytes(merged, run_op(TiesOp, settings, models, base, each=each))


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_election_is_held_on_what_survives(rescale, normalize):
    models, base = models_and_base((2000,), 2)
    each = [{"density": 0.5, "weight": 1.0}, {"density": 0.25, "weight": 0.6}]
    votes = []
    for index, (model, entry) in enumerate(zip(models, each, strict=True)):
        delta = (model - base).double()
        key = stream_key(0, "merge.dare_ties", "w", index, version=2)
        kept = delta * keep(key, 0, entry["density"], torch.empty(2000, dtype=torch.bool))
        factor = {"inverse": 1 / entry["density"], "l1": delta.abs().sum() / kept.abs().sum(), "none": 1}[
            rescale
        ]
        votes.append(entry["weight"] * factor * kept)
    sign = torch.where(votes[0] + votes[1] >= 0, 1, -1)
    agrees = [vote.sign() == sign for vote in votes]
    mixed = sum(torch.where(mask, vote, 0) for mask, vote in zip(agrees, votes, strict=True))
    if normalize:
        mixed /= (agrees[0] * 1.0 + agrees[1] * 0.6).where(agrees[0] | agrees[1], 1)
    params = {"rescale": rescale, "normalize": normalize}
    merged = run_op(DareTiesOp, params, models, base, each=each)
    assert torch.allclose(merged.double(), base + mixed, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6, 50)])
@pytest.mark.parametrize("rescale", ["inverse", "l1"])
def test_the_laws_hold(shape, rescale):
    models, base = models_and_base(shape, 2)
    OpCase(
        DareTiesOp,
        {"rescale": rescale, "normalize": True},
        models=models,
        base=base,
        each=[{"density": 0.5, "weight": 0.5}, {"density": 0.9}],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0}, {"density": 0}], gives=BASE),
            Identity(each=[{"density": 0}, {"density": 1, "weight": 3}], gives=1),
        ],
        scale_equivariant=True,
        chunks=(1, 8, 100),
    ).check()
