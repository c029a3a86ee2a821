from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.errors import PlanError
from surgery_adapter.concat import ConcatOp
from tests.plugins.adapter.conftest import Shop, filled

E1 = ([[1.0, 0.0]], [[1.0], [0.0]])
E2 = ([[0.0, 1.0]], [[0.0], [1.0]])


def test_the_mean_of_two_directions_is_half_of_each(shop: Shop):
    # factors added one by one would give ½·ones: 100 % off
    shop.adapter("a", {"q": E1})
    shop.adapter("b", {"q": E2})
    made = shop.run({"op": "adapter.concat", "models": {"a": 0.5, "b": 0.5}})
    assert shop.product(made).tolist() == [[0.5, 0], [0, 0.5]]
    assert made["q.lora_A.weight"].tolist() == [[1, 0], [0, 1]]


def test_the_scales_of_the_adapters_are_applied_once(shop: Shop):
    shop.adapter("a", {"q": E1}, lora_alpha=3)
    shop.adapter("b", {"q": (filled(4, 2), filled(2, 4))}, lora_alpha=8, use_rslora=True)  # 8/√4
    made = shop.run({"op": "adapter.concat", "models": {"a": 1, "b": -2}})
    wanted = torch.tensor([[3.0, 0], [0, 0]]) - 2 * 4 * filled(2, 4) @ filled(4, 2)
    torch.testing.assert_close(shop.product(made).float(), wanted, rtol=1e-6, atol=1e-6)
    assert (shop.config["r"], shop.config["use_rslora"]) == (5, False)


def test_a_module_that_one_adapter_lacks_is_the_others_alone(shop: Shop):
    shop.adapter("a", {"q": E1, "v": E2})
    shop.adapter("b", {"q": E2})
    step: dict[str, Any] = {"op": "adapter.concat", "models": ["a", "b"]}
    with pytest.raises(
        PlanError, match=r"tensor base_model.model.v.lora_A.weight is missing in `b`.*`missing: skip`"
    ):
        shop.plan(step)
    made = shop.run({**step, "missing": "skip"})
    assert shop.product(made, "v").tolist() == [[0, 0], [0, 1]]
    assert shop.product(made).tolist() == [[1, 0], [0, 1]]
    assert shop.config["target_modules"] == ["q", "v"]


def test_one_adapter_is_itself_and_twice_the_same_bytes(shop: Shop):
    shop.adapter("a", {"q": (filled(3, 5), filled(4, 3))})
    first, again = (shop.run({"op": "adapter.concat", "models": ["a"]}) for _ in "12")
    assert torch.equal(first["q.lora_A.weight"], filled(3, 5))
    assert torch.equal(first["q.lora_B.weight"], filled(4, 3))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_convolutions_keep_their_kernels(shop: Shop):
    shop.adapter("a", {"q": (filled(2, 3, 2, 2), filled(4, 2, 1, 1))})
    shop.adapter("b", {"q": (filled(1, 3, 2, 2, seed=1), filled(4, 1, 1, 1, seed=1))})
    made = shop.run({"op": "adapter.concat", "models": ["a", "b"]})
    assert made["q.lora_A.weight"].shape == (3, 3, 2, 2)
    assert made["q.lora_B.weight"].shape == (4, 3, 1, 1)


def test_adapters_of_other_models_are_refused(shop: Shop):
    shop.adapter("a", {"q": E1})
    shop.adapter("b", {"q": ([[1.0, 0.0, 0.0]], [[1.0], [0.0]])})
    with pytest.raises(PlanError) as caught:
        shop.plan({"op": "adapter.concat", "models": ["a", "b"]})
    told = "the adapters differ in more than the rank, got (1, 2) and (1, 3); take adapters of one model"
    assert f"base_model.model.q.lora_A.weight: {told}" in str(caught.value)


def test_factors_are_rounded_once_to_their_dtype(shop: Shop):
    shop.adapter("a", {"q": (filled(3, 5), filled(4, 3))})
    made = shop.run({"op": "adapter.concat", "models": {"a": 0.3}, "dtype": "bfloat16"})
    assert torch.equal(made["q.lora_B.weight"], (filled(4, 3) * 0.3).bfloat16())


def test_the_rank_and_the_weights_of_the_op_itself():
    A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    got_A, got_B = ConcatOp.implementation.combine([A, A], [B, B], [1.0, -2.0], None)
    assert (got_A.tolist(), got_B.tolist()) == ([[1, 2], [1, 2]], [[3, -6]])


def test_peft_loads_what_is_written(tmp_path: Path):
    import warnings

    from peft import LoraConfig, PeftModel, get_peft_model
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.q, self.v = nn.Linear(6, 5), nn.Linear(5, 4)

    shop, wanted = Shop(tmp_path), {name: w.clone() for name, w in Net().state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, weight, rank in (("a", 0.5, 2), ("b", -1.5, 3)):
            model = get_peft_model(
                Net(), LoraConfig(target_modules=["q", "v"], r=rank, rank_pattern={"v": 1})
            )
            for parameter in model.parameters():
                parameter.data = (
                    filled(*parameter.shape, seed=rank) if parameter.requires_grad else parameter.data
                )
            model.save_pretrained(tmp_path / name)
            changed = model.merge_and_unload().state_dict()
            wanted = {key: wanted[key] + weight * (changed[key] - w) for key, w in Net().state_dict().items()}
        shop.run({"op": "adapter.concat", "models": {"a": 0.5, "b": -1.5}})
        found = PeftModel.from_pretrained(Net(), tmp_path / "out").merge_and_unload().state_dict()
    for key, weight in wanted.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-5, atol=1e-4)
