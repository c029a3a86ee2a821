from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from surgery_adapter.lego import LegoOp
from tests.plugins.adapter.conftest import Shop, filled

PAIR = (filled(3, 9), filled(7, 3, seed=1))
OTHER = (filled(2, 9, seed=2), filled(7, 2, seed=3))


def change(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return pair[1].double() @ pair[0].double()


def lego(shop: Shop, models: Any, **params: Any) -> torch.Tensor:
    return shop.product(shop.run({"op": "adapter.lego", "models": models, **params}))


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_two_directions_alike_become_one_between_them(shop: Shop):
    # [b; a] = [1, 0; 1, 0] and [0.6, 0.8; 0.6, 0.8]: mean [0.8, 0.4; 0.8, 0.4], of length √1.6 in the place of √2
    shop.adapter("a", {"q": ([[1.0, 0.0]], [[1.0], [0.0]])})
    shop.adapter("b", {"q": ([[0.6, 0.8]], [[0.6], [0.8]])})
    shorter = lego(shop, ["a", "b"], reweight="none")
    torch.testing.assert_close(shorter.float(), torch.tensor([[0.64, 0.32], [0.32, 0.16]]))
    torch.testing.assert_close(lego(shop, ["a", "b"], reweight="norm"), shorter / 0.8, rtol=1e-6, atol=1e-7)


def test_as_many_clusters_as_directions_are_all_of_them(shop: Shop):
    shop.adapter("a", {"q": PAIR})
    shop.adapter("b", {"q": OTHER})
    for reweight in ("none", "norm"):
        near(lego(shop, ["a", "b"], rank=5, reweight=reweight), change(PAIR) + change(OTHER))
    # five directions where adapters have two and a half vary √2 times as much
    near(lego(shop, ["a", "b"], rank=5), (change(PAIR) + change(OTHER)) / math.sqrt(2))


@pytest.mark.parametrize("reweight", ["none", "norm", "both"])
def test_an_adapter_given_twice_is_itself(shop: Shop, reweight: str):
    shop.adapter("a", {"q": PAIR})
    shop.adapter("b", {"q": PAIR})
    near(lego(shop, ["a", "b"], reweight=reweight), change(PAIR))


def test_directions_are_told_apart_whatever_their_signs_and_lengths(shop: Shop):
    turned = torch.tensor([-2.0, 0.5, 8.0])
    shop.adapter("a", {"q": PAIR})
    shop.adapter("b", {"q": (PAIR[0] * turned[:, None], PAIR[1] / turned)})
    near(lego(shop, ["a", "b"]), change(PAIR))


def test_whose_directions_they_are_does_not_matter():
    As, Bs = [PAIR[0], OTHER[0]], [PAIR[1], OTHER[1]]
    op, params = LegoOp.implementation, LegoOp.params(rank=3)
    A, B = op.combine(As, Bs, [1.0, 1.0], params)
    C, D = op.combine(As[::-1], Bs[::-1], [1.0, 1.0], params)
    torch.testing.assert_close(B @ A, D @ C)


def test_weights_are_the_changes(shop: Shop):
    shop.adapter("a", {"q": PAIR})
    shop.adapter("b", {"q": OTHER})
    found = lego(shop, {"a": -2, "b": 0}, rank=5, reweight="none")
    near(found, -2 * change(PAIR))


def test_directions_of_zero_are_left_out(shop: Shop):
    A, B = PAIR[0].clone(), PAIR[1].clone()
    A[1], B[:, 2] = 0, 0
    shop.adapter("a", {"q": (A, B)})
    near(lego(shop, ["a"]), B.double() @ A.double())


def test_an_adapter_of_zeros_stays_one(shop: Shop):
    shop.adapter("a", {"q": (torch.zeros(2, 4), torch.zeros(3, 2))})
    assert lego(shop, ["a"]).count_nonzero() == 0


def test_twice_the_same_bytes(shop: Shop):
    shop.adapter("a", {"q": PAIR})
    shop.adapter("b", {"q": OTHER})
    step = {"op": "adapter.lego", "models": ["a", "b"], "rank": 2}
    first, again = shop.run(step), shop.run(step)
    assert all(torch.equal(first[name], again[name]) for name in first)
