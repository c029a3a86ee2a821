"""merge.arcee_fusion: known scores, exact quartiles of large tensors, and the formula in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from surgery.errors import OpError
from surgery.math.count import Bracket, Counted
from surgery.math.select import FULL, Threshold, count
from surgery.ops import BLOCK
from surgery.testing import OpCase, run_op, same_bytes
from surgery.testing.runner import signature_of
from surgery_merge.arcee_fusion import ArceeFusionOp, Partition, Search, _refined, _threshold


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scores(model: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return |b - a|·KL(softmax(b) ‖ softmax(a)) in float64."""
    p, q = (torch.softmax(x.double(), -1) + 1e-8 for x in (model, base))
    divergence = (p * torch.log(p / q)).sum(-1, keepdim=True)
    return (model - base).double().abs() * divergence


def textbook(model: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return the published rule in float64, with sorted quartiles."""
    found = scores(model, base)
    ordered = found.reshape(-1).sort().values
    lower, median, upper = (ordered[(k * (len(ordered) - 1)) // 4] for k in (1, 2, 3))
    return torch.where(found >= median + 1.5 * (upper - lower), model, base)


def quartiles(values: torch.Tensor) -> tuple[list[float], float, int]:
    """Return the quartiles of some scores, the threshold that follows, and the passes that it took."""
    known: tuple[Bracket | Threshold, ...] = (FULL,) * 3
    passes = 0
    while any(isinstance(bracket, Bracket) for bracket in known):
        seen: dict[Bracket, Counted] = {}
        for start in range(0, values.numel(), BLOCK):
            for bracket in {bracket for bracket in known if isinstance(bracket, Bracket)}:
                part = count(values[start : start + BLOCK], bracket)
                seen[bracket] = seen[bracket].add(part) if bracket in seen else part
        known = _refined(seen, Search(np.ones(1), known), values.numel())
        passes += 1
    return [found.value for found in known], _threshold(Search(np.ones(1), known)), passes


def test_quartiles_of_twelve_scores():
    assert quartiles(torch.arange(12.0)) == ([2.0, 5.0, 8.0], 14.0, 1)


def test_quartiles_of_more_scores_than_a_block():
    size = 2 * BLOCK + 5
    values = torch.randperm(size, generator=torch.Generator().manual_seed(0)).float()
    wanted = [float(k * (size - 1) // 4) for k in (1, 2, 3)]
    assert quartiles(values)[0] == wanted


def test_the_threshold_is_rounded_up():
    found = tuple(Threshold(0, value, 0, 1) for value in (0.0, 1.0, 2.0**-30))
    assert _threshold(Search(np.ones(1), found)) == 1 + 2.0**-23


@pytest.mark.parametrize(
    ("base", "model", "wanted"),
    [
        # scores .1·D, .1·D, .1·D, 2·D: quartiles .1·D, .1·D, .1·D, all reach the threshold
        ([[0.0, 0.0, 0.0, 0.0]], [[0.1, 0.1, 0.1, 2.0]], [[0.1, 0.1, 0.1, 2.0]]),
        # .5·D, 1·D, 1·D, 1·D, 2·D: quartiles 1·D, which only the first is below
        ([[0.0] * 5], [[0.5, 1.0, -1.0, 1.0, 2.0]], [[0.0, 1.0, -1.0, 1.0, 2.0]]),
        # rows that change by a constant alone have no divergence: all scores are 0, and so is the threshold
        ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]),
    ],
)
def test_known_rows(base, model, wanted):
    OpCase(ArceeFusionOp, models=[model], base=base, expected=wanted, permutable=True).check()


def test_only_what_stands_out_is_taken():
    base = torch.zeros(1, 9)
    model = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 4.0]])
    # |change|/D in order: quartiles 0.3, 0.5, 0.7; the threshold 0.5 + 0.6 = 1.1 leaves the last
    OpCase(ArceeFusionOp, models=[model], base=base, expected=[[0.0] * 8 + [4.0]], permutable=True).check()


def test_rows_that_change_more_count_more():
    base = torch.zeros(4, 2)
    model = torch.tensor([[0.01, 0.0], [0.01, 0.0], [0.01, 0.0], [1.0, 0.0]])
    # scores: 4 times 0, thrice 0.01·D, 1·D' with quartiles 0, 0, 0.01·D: a threshold of 0.015·D
    wanted = torch.zeros(4, 2)
    wanted[3, 0] = 1.0
    OpCase(ArceeFusionOp, models=[model], base=base, expected=wanted, permutable=True).check()


@pytest.mark.parametrize("model", [torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5], [2.0]])])
def test_rows_of_one_number_have_no_divergence_and_are_the_models(model):
    assert same_bytes(run_op(ArceeFusionOp, {}, [model], torch.zeros_like(model)), model)


def test_a_model_equal_to_the_base_gives_it():
    base = normal(10, 10)
    assert same_bytes(run_op(ArceeFusionOp, {}, [base], base), base)


@pytest.mark.parametrize("shape", [(7,), (13, 11), (2, 5, 9), (5, 2, 2, 3), (350, 400)])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_it_equals_the_rule_in_float64(shape, size):
    base = normal(*shape, seed=1)
    model = base + size * normal(*shape, seed=2) * normal(*shape, seed=3) ** 2
    as_rows = (shape[0], math.prod(shape[1:])) if len(shape) == 4 else shape
    wanted = textbook(model.reshape(as_rows), base.reshape(as_rows)).reshape(shape)
    OpCase(
        ArceeFusionOp, models=[model], base=base, expected=wanted, chunks=(max(base.numel() // 3, 1),)
    ).check()


def test_large_weights_do_not_overflow():
    base = torch.tensor([[1000.0, 2000.0, -3000.0, 0.0]])
    model = base + torch.tensor([[1.0, 2.0, 1.0, 0.0]])
    found = run_op(ArceeFusionOp, {}, [model], base, block=2)
    assert found.isfinite().all()


def divergences(model: torch.Tensor, base: torch.Tensor) -> np.ndarray:
    """Return what the op finds for the rows of a matrix in one block."""
    signature, implementation = signature_of(ArceeFusionOp, [model], base, []), ArceeFusionOp.implementation

    class Block:
        models, start = [model.reshape(-1)], 0

        @staticmethod
        def scratch(index):
            return torch.full_like(model, torch.nan).reshape(-1)

    Block.base, Block.signature = base.reshape(-1), signature
    partition = implementation.solve(signature, None, implementation.gather(Block, None, None), None)
    assert isinstance(partition, Partition)
    ((_, found),) = implementation.gather(Block, None, partition)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "rel"), [(1e-5, 1e-4), (1e-3, 1e-6), (0.005, 1e-6), (0.1, 1e-6)])
def test_small_changes_keep_the_digits_of_their_divergence(size, rel, dtype):
    """In float32 p·log(p/q) cancels and leaves none. The tolerance of 1e-5 is that of p and q in float64 here."""
    base = 0.02 * normal(3, 1000).to(dtype)
    model = base + size * normal(3, 1000, seed=1).to(dtype)
    p, q = (torch.softmax(x.double(), -1) + 1e-8 for x in (model, base))
    apart = (p - q) / q
    wanted = (q * ((1 + apart) * torch.log1p(apart) - apart)).sum(-1)
    if size == 1e-5:
        wanted = ((p - q) ** 2 / q).sum(-1) / 2
    assert divergences(model, base) == pytest.approx(wanted.numpy(), rel=rel)


def test_what_is_added_to_probabilities_shows_where_they_are_small():
    """One of a thousand has nearly all; the others' probabilities, 2e-9, are a fifth of the 1e-8 that is added."""
    base = torch.zeros(1, 1000)
    base[0, 0] = 20.0
    model = base + 0.01 * normal(1, 1000)
    p, q = (torch.softmax(x.double(), -1) + 1e-8 for x in (model, base))
    apart = (p - q) / q
    wanted = (q * ((1 + apart) * torch.log1p(apart) - apart)).sum(-1)
    assert divergences(model, base) == pytest.approx(wanted.numpy(), rel=1e-6)


def test_blocks_of_small_and_of_large_changes_add_up():
    """The first row is cut by a block's end; one part of it changes little, the other much."""
    base = 0.02 * normal(2, 3 * BLOCK // 4)
    model = base + 1e-3 * normal(2, 3 * BLOCK // 4, seed=1)
    model[1, -5:] += 0.5
    assert same_bytes(run_op(ArceeFusionOp, {}, [model], base), textbook(model, base))


def test_a_few_scores_are_counted_in_one_pass_and_more_in_two():
    assert quartiles(normal((1 << 16) - 1).abs())[2] == 1
    assert quartiles(normal(1 << 16).abs())[2] == 2
    assert ArceeFusionOp.implementation.gathers == 2 + 2  # after row sums and divergences


def test_a_base_is_needed():
    with pytest.raises(OpError) as error:
        run_op(ArceeFusionOp, {}, [torch.ones(1)])
    assert str(error.value) == "w: the base lacks this tensor, a delta needs it; leave it out with `where:`"
