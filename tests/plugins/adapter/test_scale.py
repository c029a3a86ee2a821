from __future__ import annotations

import torch

from surgery.testing import run_op
from surgery_adapter.scale import scale
from tests.plugins.adapter.conftest import Shop, filled

B = "m.q.lora_B.weight"


def test_b_is_multiplied():
    assert run_op(scale, {"factor": -2.0}, [torch.tensor([[1.0, 3.0]])], name=B).tolist() == [[-2, -6]]


def test_a_stays_and_so_does_the_rank(shop: Shop):
    shop.adapter("a", {"q": (filled(3, 5), filled(4, 3))}, lora_alpha=6)  # scale 2
    made = shop.run({"op": "adapter.scale", "model": "a", "factor": -0.5})
    assert torch.equal(made["q.lora_A.weight"], filled(3, 5))
    assert torch.equal(made["q.lora_B.weight"], -filled(4, 3))
    assert (shop.config["r"], shop.config["lora_alpha"]) == (3, 3)


def test_a_factor_of_one_is_the_adapter_with_its_scale(shop: Shop):
    shop.adapter("a", {"q": (filled(3, 5).bfloat16(), filled(4, 3).bfloat16())}, lora_alpha=6)
    made = shop.run({"op": "adapter.scale", "model": "a", "factor": 1.0})
    assert torch.equal(made["q.lora_B.weight"], filled(4, 3).bfloat16() * 2)
    assert made["q.lora_A.weight"].dtype is torch.bfloat16


def test_selectors_may_name_modules(shop: Shop):
    shop.adapter("a", {"q": (filled(1, 2), filled(2, 1)), "v": (filled(1, 2), filled(2, 1))})
    made = shop.run({"op": "adapter.scale", "model": "a", "factor": {"*.v.*": 3.0, "default": 1.0}})
    assert torch.equal(made["v.lora_B.weight"], 3 * made["q.lora_B.weight"])


def test_cut_into_pieces_it_is_the_whole_and_inputs_stay():
    w = filled(7, 5)
    whole = run_op(scale, {"factor": 0.3}, [w], name=B)
    assert all(torch.equal(run_op(scale, {"factor": 0.3}, [w], name=B, chunk=n), whole) for n in (1, 3, 100))
    assert torch.equal(w, filled(7, 5))
