from __future__ import annotations

from typing import Any

import pytest
import torch

from surgery.errors import PlanError
from tests.plugins.adapter.conftest import Shop, filled

E1 = ([[1.0, 0.0]], [[1.0], [0.0]])
E2 = ([[0.0, 1.0]], [[0.0], [1.0]])
OLD, NEW = (filled(2, 9), filled(7, 2, seed=1)), (filled(3, 9, seed=2), filled(7, 3, seed=3))


def ema(shop: Shop, models: list[str], **params: Any) -> dict[str, torch.Tensor]:
    return shop.run({"op": "adapter.ema", "models": models, **params})


@pytest.fixture
def two(shop: Shop) -> Shop:
    shop.adapter("late", {"q": NEW})
    shop.adapter("old", {"q": OLD})
    return shop


def test_changes_are_averaged_where_factors_have_cross_terms(shop: Shop):
    shop.adapter("a", {"q": E1})
    shop.adapter("b", {"q": E2})
    exact = shop.product(ema(shop, ["a", "b"], beta=0.75, rank=2))
    torch.testing.assert_close(exact.float(), torch.diag(torch.tensor([0.75, 0.25])), rtol=0, atol=1e-6)
    crossed = shop.product(ema(shop, ["a", "b"], beta=0.75, mode="factors"))
    assert crossed.tolist() == [[0.5625, 0.1875], [0.1875, 0.0625]]


def test_the_order_is_that_of_the_recipe(two: Shop):
    found = two.product(ema(two, ["old", "late"], beta=0.9, rank=5))
    wanted = 0.9 * OLD[1].double() @ OLD[0].double() + 0.1 * NEW[1].double() @ NEW[0].double()
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_the_ends_are_the_inputs(two: Shop):
    for beta, (A, B) in ((1, OLD), (0, NEW)):
        made = ema(two, ["old", "late"], beta=beta)
        assert torch.equal(made["q.lora_A.weight"], A)
        assert torch.equal(made["q.lora_B.weight"], B)


def test_the_rank_is_the_largest_unless_it_is_given(two: Shop):
    wanted = 0.5 * OLD[1].double() @ OLD[0].double() + 0.5 * NEW[1].double() @ NEW[0].double()
    U, S, Vh = torch.linalg.svd(wanted)
    for rank, given in ((3, {}), (2, {"rank": 2})):
        found = two.product(ema(two, ["old", "late"], beta=0.5, **given))
        nearest = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        assert float((found - nearest).norm() / nearest.norm()) < 1e-6


def test_several_states_are_averaged_one_after_another(two: Shop):
    two.adapter("latest", {"q": (filled(2, 9, seed=7), filled(7, 2, seed=8))})
    found = two.product(ema(two, ["old", "late", "latest"], beta=0.5, rank=7))
    first, second = (B.double() @ A.double() for A, B in (OLD, NEW))
    third = filled(7, 2, seed=8).double() @ filled(2, 9, seed=7).double()
    wanted = 0.5 * (0.5 * first + 0.5 * second) + 0.5 * third
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_a_state_without_the_module_changes_nothing_there(two: Shop):
    two.adapter("wide", {"q": OLD, "v": E1}, rank_pattern={"q": 2}, alpha_pattern={"q": 2})
    step = {"op": "adapter.ema", "missing": "skip", "beta": 0.75, "rank": 1}
    old_lacks_it = two.product(two.run({**step, "models": ["old", "wide"]}), "v")
    torch.testing.assert_close(old_lacks_it.float(), torch.tensor([[0.25, 0], [0, 0]]))


def test_factors_of_other_ranks_have_no_average(two: Shop):
    with pytest.raises(PlanError) as caught:
        two.plan({"op": "adapter.ema", "models": ["old", "late"], "beta": 0.9, "mode": "factors"})
    told = "factors of ranks 2 and 3 have no average (and 1 more such tensors); use `mode: dense`"
    assert told in str(caught.value)


def test_factors_keep_their_rank(two: Shop):
    two.adapter("again", {"q": OLD})
    step = {"op": "adapter.ema", "models": ["old", "again"], "beta": 0.9, "mode": "factors", "rank": 4}
    with pytest.raises(PlanError, match=r"`mode: factors` keeps the rank \(.*\); leave `rank` out"):
        two.plan(step)


def test_twice_the_same_bytes(two: Shop):
    first, again = (ema(two, ["old", "late"], beta=0.9) for _ in "12")
    assert all(torch.equal(first[name], again[name]) for name in first)
