from __future__ import annotations

from typing import Any

import pytest
import torch

from surgery.errors import PlanError
from tests.plugins.adapter.conftest import Shop, filled

PAIRS = [(filled(r, 30, seed=r), filled(20, r, seed=10 + r)) for r in (2, 3, 4)]


@pytest.fixture
def three(shop: Shop) -> Shop:
    for name, pair in zip("abc", PAIRS, strict=True):
        shop.adapter(name, {"q": pair})
    return shop


def merge(shop: Shop, **params: Any) -> torch.Tensor:
    return shop.product(shop.run({"op": "adapter.merge", "models": ["a", "b", "c"], **params}))


def changes() -> list[torch.Tensor]:
    return [B.double() @ A.double() for A, B in PAIRS]


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Hold float32 factors, whose products have up to nine terms, to float64."""
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def test_linear_of_full_rank_is_the_mean(three: Shop):
    near(merge(three, rank=9), sum(changes()) / 3)


def test_the_rank_is_the_largest_unless_it_is_given(three: Shop):
    found = merge(three)
    U, S, Vh = torch.linalg.svd(sum(changes()) / 3)
    near(found, (U[:, :4] * S[:4]) @ Vh[:4])
    assert three.config["r"] == 4


@pytest.mark.parametrize("method", ["linear", "tsvm", "iso"])
@pytest.mark.parametrize("space", ["core", "knots"])
def test_what_does_not_look_at_entries_is_the_same_in_every_basis(three: Shop, method: str, space: str):
    near(merge(three, method=method, rank=9, space=space), merge(three, method=method, rank=9, space="dense"))


def elected(deltas: list[torch.Tensor], density: float) -> torch.Tensor:
    """Return TIES of matrices as the paper writes it, all weights 1."""
    trimmed = []
    for delta in deltas:
        limit = delta.abs().flatten().sort(descending=True).values[int(density * delta.numel()) - 1]
        trimmed.append(torch.where(delta.abs() >= limit, delta, 0.0))
    stacked = torch.stack(trimmed)
    sign = torch.where(stacked.sum(0) < 0, -1.0, 1.0)
    agree = stacked * sign > 0
    return torch.where(agree, stacked, 0.0).sum(0) / agree.sum(0).clamp(min=1)


def test_ties_of_knots_is_the_papers(three: Shop):
    U, S, Vh = torch.linalg.svd(torch.cat(changes(), 1), full_matrices=False)
    parts = (S[:9, None] * Vh[:9]).split(30, 1)
    wanted = U[:, :9] @ elected(list(parts), 0.3)
    near(merge(three, method="ties", density=0.3, space="knots", rank=9), wanted)


def test_knots_of_directions_that_do_not_meet_are_the_changes(shop: Shop):
    shop.adapter("a", {"q": ([[1.0, 0.0]], [[3.0], [0.0]])})
    shop.adapter("b", {"q": ([[0.0, 1.0]], [[0.0], [1.0]])})
    step = {"op": "adapter.merge", "models": ["a", "b"], "method": "ties", "space": "knots", "rank": 2}
    found = shop.product(shop.run({**step, "density": 0.5}))
    torch.testing.assert_close(found.float(), torch.diag(torch.tensor([3.0, 1.0])), rtol=0, atol=1e-6)


def test_ties_of_whole_changes_is_the_papers(three: Shop):
    wanted = elected(changes(), 0.3)
    # ΔW is made of float32 factors in either case: no entry lies as near to its limit as that
    near(merge(three, method="ties", density=0.3, space="dense", rank=20), wanted)


def test_ties_is_another_method_in_every_basis(three: Shop):
    spaces = ("dense", "core", "knots")
    dense, core, knots = (merge(three, method="ties", density=0.3, space=s, rank=20) for s in spaces)
    assert float((dense - core).norm() / dense.norm()) > 0.1
    assert float((dense - knots).norm() / dense.norm()) > 0.1
    assert float((core - knots).norm() / core.norm()) > 0.1


def test_lambda_scales_what_comes_out(three: Shop):
    near(merge(three, rank=9, **{"lambda": -2.0}), sum(changes()) * (-2 / 3))


def test_weights_are_applied_and_need_not_be_normalized(three: Shop):
    step = {"op": "adapter.merge", "models": {"a": 2, "b": -1, "c": 0}, "rank": 9, "normalize": False}
    near(three.product(three.run(step)), 2 * changes()[0] - changes()[1])


def test_weights_that_cancel_are_refused(three: Shop):
    with pytest.raises(PlanError, match=r"weights add up to 0 \(.*; set `normalize: false`"):
        three.plan({"op": "adapter.merge", "models": {"a": 1, "b": -1}})


def test_weights_may_not_differ_between_the_factors_of_a_module(three: Shop):
    with pytest.raises(PlanError) as caught:
        three.plan(
            {"op": "adapter.merge", "models": {"a": {"weight": {"*lora_A*": 2.0, "default": 1.0}}, "b": 1}}
        )
    told = "factors of base_model.model.q have different parameters; let selectors name whole modules"
    assert told in str(caught.value)


def test_twice_the_same_bytes(three: Shop):
    step = {"op": "adapter.merge", "models": ["a", "b", "c"], "method": "tsvm"}
    first, again = three.run(step), three.run(step)
    assert all(torch.equal(first[name], again[name]) for name in first)
