"""adapter.convert there and back, from the recipe's text to the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.errors import PlanError
from tests.plugins.adapter.conftest import PREFIX, Shop, filled

MODULES = {
    "layers.0.q_proj": (filled(2, 3), filled(4, 2, seed=1)),
    "layers.1.up_proj": (filled(1, 4, seed=2), filled(5, 1, seed=3)),
}


@pytest.fixture
def folder(shop: Shop) -> Path:
    save_file({"layers.0.q_proj.weight": filled(4, 3), "layers.1.up_proj.weight": filled(5, 4)}, _base(shop))
    (shop.folder / "base" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    shop.adapter("lora", MODULES, **config())
    return shop.folder


def _base(shop: Shop) -> Path:
    (shop.folder / "base").mkdir()
    return shop.folder / "base" / "model.safetensors"


def config(alpha: float = 1) -> dict[str, Any]:
    ranks = {"layers.0.q_proj": 2}
    return {"rank_pattern": ranks, "alpha_pattern": {"layers.0.q_proj": 2 * alpha}, "lora_alpha": alpha}


def run(folder: Path, source: str, out: str, **step: Any) -> dict[str, torch.Tensor]:
    recipe = {
        "surgery": 1,
        "models": {"lora": source, **({"base": "./base"} if "base" in step else {})},
        "steps": {"named": {"op": "adapter.convert", "model": "lora", **step}},
        "output": {"model": "named", "to": out},
    }
    loaded = surgery.loads(json.dumps(recipe), folder=folder)
    loaded.resolve().run(surgery.RunOptions(device="cpu"))
    return load_file(folder / out / "adapter_model.safetensors")


def there_and_back(folder: Path, lora: str = "./lora") -> dict[str, torch.Tensor]:
    run(folder, lora, "./kohya", to="kohya", prefix="lora_te")
    return run(
        folder, "./kohya/adapter_model.safetensors", "./back", to="peft", prefix="lora_te", base="base"
    )


def test_kohyas_names_have_underscores_and_ranks_as_alphas(folder: Path):
    made = run(folder, "./lora", "./kohya", to="kohya", prefix="lora_te")
    q = "lora_te_layers_0_q_proj"
    A, B = MODULES["layers.0.q_proj"]
    assert len(made) == 6
    assert torch.equal(made[f"{q}.lora_down.weight"], A)
    assert torch.equal(made[f"{q}.lora_up.weight"], B)
    assert (made[f"{q}.alpha"].shape, float(made[f"{q}.alpha"])) == ((), 2.0)
    assert float(made["lora_te_layers_1_up_proj.alpha"]) == 1.0
    assert not (folder / "kohya" / "adapter_config.json").exists()


def test_there_and_back_are_the_same_bytes(folder: Path):
    made, first = there_and_back(folder), load_file(folder / "lora" / "adapter_model.safetensors")
    assert set(made) == set(first)
    assert all(torch.equal(made[name], first[name]) for name in first)
    said = json.loads((folder / "back" / "adapter_config.json").read_text())
    assert (said["peft_type"], said["task_type"], said["base_model_name_or_path"]) == (
        "LORA",
        "CAUSAL_LM",
        None,
    )
    assert said["target_modules"] == ["layers.0.q_proj", "layers.1.up_proj"]
    ranks = {module: said["rank_pattern"].get(module.replace(".", r"\."), said["r"]) for module in MODULES}
    assert ranks == {"layers.0.q_proj": 2, "layers.1.up_proj": 1}


def test_another_scale_is_applied_on_the_way(folder: Path):
    said = folder / "lora" / "adapter_config.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), **config(alpha=4)}))
    made = there_and_back(folder)
    name = f"{PREFIX}layers.0.q_proj.lora_B.weight"
    assert torch.equal(made[name], 4 * MODULES["layers.0.q_proj"][1])


def test_the_alpha_of_a_file_of_kohyas_is_applied(folder: Path):
    k = "lora_unet_layers_0_q_proj"
    A, B = MODULES["layers.0.q_proj"]
    tensors = {f"{k}.lora_down.weight": A, f"{k}.lora_up.weight": B, f"{k}.alpha": torch.tensor(0.5)}
    save_file(tensors, folder / "style.safetensors")
    made = run(folder, "./style.safetensors", "./peft", to="peft", base="base", base_model="acme/base")
    assert torch.equal(made[f"{PREFIX}layers.0.q_proj.lora_B.weight"], 0.25 * B)
    said = json.loads((folder / "peft" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["base_model_name_or_path"]) == (2, 2, "acme/base")


def test_tensors_of_another_prefix_are_another_models(folder: Path):
    A, B = MODULES["layers.0.q_proj"]
    pair = {"lora_down.weight": A, "lora_up.weight": B}
    names = ("lora_unet_layers_0_q_proj", "lora_te1_anything")
    tensors = {f"{name}.{end}": factor.clone() for name in names for end, factor in pair.items()}
    save_file(tensors, folder / "both.safetensors")
    assert len(run(folder, "./both.safetensors", "./peft", to="peft", base="base")) == 2


@pytest.mark.parametrize(
    ("module", "step", "told"),
    [
        (
            "lora_unet_layers_0_k_proj",
            {"base": "base"},
            "`base` has no module `layers_0_k_proj`; did you mean `layers_0_q_proj` or `layers_1_up_proj`?",
        ),
        (
            "lora_unet_something_else",
            {"base": "base"},
            "`base` has no module `something_else`; known: `layers_0_q_proj`, `layers_1_up_proj`",
        ),
        (
            "lora_te2_layers_0_q_proj",
            {"base": "base"},
            "no name begins with `lora_unet`, they begin with `lora_te2`; set `prefix`",
        ),
        (
            "lora_unet_layers_0_q_proj",
            {},
            "`to: peft` needs `base:`, the model whose modules the names stand for; add it",
        ),
    ],
)
def test_names_that_cannot_be_told_are_refused(folder: Path, module: str, step: dict[str, str], told: str):
    tensors = {f"{module}.lora_down.weight": filled(2, 3), f"{module}.lora_up.weight": filled(4, 2)}
    save_file(tensors, folder / "style.safetensors")
    with pytest.raises(PlanError) as caught:
        run(folder, "./style.safetensors", "./peft", to="peft", **step)
    assert told in str(caught.value)


def test_kohya_needs_no_base(folder: Path):
    with pytest.raises(PlanError, match="`to: kohya` takes names from the adapter alone; leave `base` out"):
        run(folder, "./lora", "./kohya", to="kohya", base="base")


def test_two_modules_of_one_name_are_refused(shop: Shop):
    shop.adapter("lora", {"a.b": MODULES["layers.0.q_proj"], "a_b": PAIR})
    told = "`a.b` and `a_b` have one name in kohya's files, `lora_unet_a_b`; convert one adapter for each"
    with pytest.raises(PlanError) as caught:
        run(shop.folder, "./lora", "./kohya", to="kohya")
    assert told in str(caught.value)


PAIR = (filled(2, 3, seed=8), filled(4, 2, seed=9))


def test_an_op_on_factors_asks_for_the_conversion(folder: Path):
    run(folder, "./lora", "./kohya", to="kohya")
    recipe = {
        "surgery": 1,
        "models": {"k": "./kohya/adapter_model.safetensors"},
        "steps": {"half": {"op": "adapter.scale", "model": "k", "factor": 0.5}},
        "output": {"model": "half", "to": "./half"},
    }
    with pytest.raises(PlanError) as caught:
        surgery.loads(json.dumps(recipe), folder=folder).resolve()
    told = "is named as kohya's scripts do (and 3 more such tensors); convert the adapter first with `adapter.convert`"
    assert told in str(caught.value)
