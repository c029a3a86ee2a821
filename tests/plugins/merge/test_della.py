"""merge.della: drops by rank, then the election of merge.ties."""

from __future__ import annotations

import pytest
import torch

from surgery.errors import OpError
from surgery.math.random import stream_key, uniform
from surgery.ops import BASE
from surgery.testing import Identity, OpCase, run_op, same_bytes
from surgery_merge.della import DellaOp
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
    merged = run_op(DellaOp, settings, models, base, each=each)
    assert same_bytes(merged, run_op(TiesOp, settings, models, base, each=each))


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_election_is_held_on_what_survives(rescale, normalize):
    models, base = models_and_base((200, 11), 2)
    each = [{"density": 0.5, "weight": 1.0}, {"density": 0.3, "epsilon": 0.1, "weight": 0.6}]
    votes = []
    for index, (model, entry) in enumerate(zip(models, each, strict=True)):
        delta = (model - base).double()
        rank = delta.abs().argsort(1).argsort(1)
        d, e = entry["density"], entry.get("epsilon", 0.15)
        p = d - e + 2 * e * rank / 10
        draws = uniform(stream_key(0, "merge.della", "w", index), 0, torch.empty(200, 11))
        kept = torch.where(draws < p.float(), delta, 0)
        factor = {"inverse": 1 / p, "l1": delta.abs().sum() / kept.abs().sum(), "none": 1}[rescale]
        votes.append(entry["weight"] * factor * kept)
    sign = torch.where(votes[0] + votes[1] >= 0, 1, -1)
    agrees = [vote.sign() == sign for vote in votes]
    mixed = sum(torch.where(mask, vote, 0) for mask, vote in zip(agrees, votes, strict=True))
    if normalize:
        mixed /= (agrees[0] * 1.0 + agrees[1] * 0.6).where(agrees[0] | agrees[1], 1)
    params = {"rescale": rescale, "normalize": normalize}
    merged = run_op(DellaOp, params, models, base, each=each, chunk=9)
    assert torch.allclose(merged.double(), base + mixed, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("scope", ["row", "tensor"])
@pytest.mark.parametrize("shape", [(), (1,), (50,), (1, 1), (6, 50)])
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_the_laws_hold(shape, rescale, scope):
    models, base = models_and_base(shape, 2)
    OpCase(
        DellaOp,
        {"rescale": rescale, "scope": scope},
        models=models,
        base=base,
        each=[{"density": 0.5, "weight": 0.5}, {"density": 0.9, "epsilon": 0.05}],
        identity=[
            Identity({"lambda": 0}, gives=BASE),
            Identity(each=[{"density": 0}, {"density": 0}], gives=BASE),
            Identity(each=[{"density": 0}, {"density": 1, "weight": 3}], gives=1),
        ],
        scale_equivariant=True,
        chunks=(1, 8, 100),
    ).check()


def test_a_vector_is_one_row():
    """As rows of one element all would be kept with the density; as one row the ends differ."""
    delta = torch.arange(1.0, 10_001)
    kept = run_op(DellaOp, {}, [delta], torch.zeros(10_000), each=[{"density": 0.5, "epsilon": 0.4}]) != 0
    assert kept[:1000].double().mean().item() < 0.2
    assert kept[-1000:].double().mean().item() > 0.8


def test_probabilities_that_are_none_are_refused():
    with pytest.raises(OpError) as error:
        run_op(DellaOp, {}, [torch.ones(2)], torch.zeros(2), each=[{"density": 0.95}])
    assert str(error.value) == (
        "w: density 0.95 and epsilon 0.15 keep with probabilities from 0.8 to 1.1, they must lie between 0 and 1; "
        "set epsilon below 0.05"
    )
