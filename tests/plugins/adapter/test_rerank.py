from __future__ import annotations

import json

import pytest
import torch

from surgery.errors import PlanError
from tests.plugins.adapter.conftest import PREFIX, Shop, filled


def test_the_largest_directions_stay(shop: Shop):
    shop.adapter("a", {"q": (torch.eye(3), torch.diag(torch.tensor([3.0, 2.0, 1.0])))})
    made = shop.run({"op": "adapter.rerank", "model": "a", "rank": 2})
    torch.testing.assert_close(
        shop.product(made).float(), torch.diag(torch.tensor([3.0, 2.0, 0.0])), rtol=0, atol=1e-6
    )
    assert shop.config["r"] == 2


def test_the_error_is_the_root_of_what_is_dropped(shop: Shop):
    A, B = filled(8, 30), filled(20, 8, seed=1)
    shop.adapter("a", {"q": (A, B)}, lora_alpha=16)
    made = shop.run({"op": "adapter.rerank", "model": "a", "rank": 3})
    whole = 2 * B.double() @ A.double()
    dropped = torch.linalg.svdvals(whole)[3:].square().sum().sqrt()
    assert float((shop.product(made) - whole).norm()) == pytest.approx(float(dropped), rel=1e-6)
    a, b = made["q.lora_A.weight"], made["q.lora_B.weight"]
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=0))  # the roots go to both sides


def test_modules_that_have_no_more_ranks_stay_as_they_are(shop: Shop):
    shop.adapter(
        "a", {"q": (filled(4, 6), filled(5, 4)), "v": (filled(2, 6), filled(5, 2))}, rank_pattern={"q": 4}
    )
    said = shop.folder / "a" / "adapter_config.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), "alpha_pattern": {"q": 4}}))
    made = shop.run({"op": "adapter.rerank", "model": "a", "rank": 3})
    assert torch.equal(made["v.lora_A.weight"], filled(2, 6))
    assert made["q.lora_A.weight"].shape == (3, 6)
    assert shop.product(made, "v").shape == (5, 6)
    assert {shop.config["r"], *shop.config["rank_pattern"].values()} == {2, 3}


def test_a_rank_that_no_module_exceeds_copies_the_adapter(shop: Shop):
    A, B = filled(3, 6), filled(5, 3, seed=1)
    shop.adapter("a", {"q": (A, B)})
    made = shop.run({"op": "adapter.rerank", "model": "a", "rank": 3})
    assert torch.equal(made["q.lora_A.weight"], A)
    assert torch.equal(made["q.lora_B.weight"], B)
    assert shop.config["r"] == 3


def test_concat_then_rerank_is_the_nearest_of_the_sum(shop: Shop):
    import surgery

    shop.adapter("a", {"q": (filled(3, 9), filled(7, 3))})
    shop.adapter("b", {"q": (filled(2, 9, seed=5), filled(7, 2, seed=6))})
    recipe = {
        "surgery": 1,
        "models": {"a": "./a", "b": "./b"},
        "steps": {
            "sum": {"op": "adapter.concat", "models": ["a", "b"]},
            "new": {"op": "adapter.rerank", "model": "sum", "rank": 2},
        },
        "output": {"model": "new", "to": "./out"},
    }
    surgery.loads(json.dumps(recipe), folder=shop.folder).resolve().run(surgery.RunOptions(device="cpu"))
    from safetensors.torch import load_file

    made = load_file(shop.folder / "out" / "adapter_model.safetensors")
    found = shop.product({name.removeprefix("base_model.model."): w for name, w in made.items()})
    U, S, Vh = torch.linalg.svd(
        (filled(7, 3) @ filled(3, 9) + filled(7, 2, seed=6) @ filled(2, 9, seed=5)).double()
    )
    torch.testing.assert_close(found, (U[:, :2] * S[:2]) @ Vh[:2], rtol=0, atol=2e-6 * float(S[0]))


def test_a_pair_is_not_torn_apart(shop: Shop):
    shop.adapter("a", {"q": (filled(3, 5), filled(4, 3))})
    with pytest.raises(PlanError) as caught:
        shop.plan({"op": "adapter.rerank", "model": "a", "rank": 1, "where": "*lora_A*"})
    told = "works on one factor of base_model.model.q only; let `where:` select both, or neither"
    assert told in str(caught.value)


def test_a_folded_base_holds_weights_not_factors(shop: Shop):
    shop.adapter("a", {"q": (filled(3, 5), filled(4, 3))})
    with pytest.raises(
        PlanError, match=r"`merge\.linear` takes weights, `a` holds factors; apply them to a base first"
    ):
        shop.plan({"op": "merge.linear", "models": {"a": 1}})


def test_what_is_kept_of_a_change_is_noted_beside_a(shop: Shop):
    A, B = filled(8, 30), filled(20, 8, seed=1)
    v = (torch.eye(2), torch.diag(torch.tensor([2.0, 1.0])))
    patterns = {"rank_pattern": {"v": 2}, "alpha_pattern": {"v": 2}}
    shop.adapter("a", {"q": (A, B), "v": v}, r=8, lora_alpha=8, **patterns)
    shop.run({"op": "adapter.rerank", "model": "a", "rank": 1})
    tensors = json.loads((shop.folder / "out" / "report.json").read_text())["tensors"]
    noted = {t["name"]: t["notes"][0]["numbers"] for t in tensors if "notes" in t}
    squares = torch.linalg.svdvals(B.double() @ A.double()).square()
    assert noted == {
        f"{PREFIX}q.lora_A.weight": {"energy": pytest.approx(float(squares[0] / squares.sum()), rel=1e-6)},
        f"{PREFIX}v.lora_A.weight": {"energy": pytest.approx(0.8, rel=1e-6)},
    }
