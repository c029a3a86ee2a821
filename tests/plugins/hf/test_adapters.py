"""Folds against peft's own `merge_and_unload`, and adapters in recipes from the text to the published folder."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import surgery
from surgery.checkpoint.open import open_checkpoint
from surgery.errors import PlanError
from surgery_hf.adapters import fold
from tests.plugins.hf.conftest import compare_with_peft, read

ZOO = Path(__file__).parents[3] / "recipes" / "zoo"


def check_against_peft(folder: Path, **said: Any) -> None:
    """Compare the fold of a LoRA adapter of rank 3 with peft's."""
    from peft import LoraConfig

    compare_with_peft(folder, LoraConfig(**{"r": 3, "lora_alpha": 5, **said}))


@pytest.mark.parametrize(
    "said",
    [
        {"target_modules": ["q_proj", "v_proj", "head"]},
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {
            "target_modules": ["q_proj", "v_proj", "head"],
            "rank_pattern": {"q_proj": 2, "^v_proj": 5},
            "alpha_pattern": {"v_proj": 7, "(head|q_proj)": 3},
        },
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "rank_pattern": {"v_proj": 4}},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm", "head"]},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True},
        {"target_modules": ["embed"]},
        {"target_modules": ["embed", "q_proj"], "use_rslora": True},
        {"target_modules": ["conv"]},
        {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
        {"target_modules": ["conv"], "use_dora": True},
        {"target_modules": ["embed"], "use_dora": True},
        {"target_modules": ["c_attn"], "use_dora": True, "fan_in_fan_out": True},
        {"target_modules": ["q_proj"], "lora_bias": True},
        {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
        {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    ],
    ids=lambda said: (
        "-".join(key for key in said if key != "target_modules") or "-".join(said["target_modules"])
    ),
)
def test_the_fold_is_pefts(tmp_path: Path, said: dict[str, Any]):
    check_against_peft(tmp_path, **said)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"init_lora_weights": "pissa"}, "`init_lora_weights`: `pissa` changes the base"),
        ({"init_lora_weights": "olora"}, "`init_lora_weights`: `olora` changes the base"),
        ({"trainable_token_indices": {"embed": [1, 2]}}, "`trainable_token_indices`: single rows"),
    ],
)
def test_what_peft_saves_and_cannot_be_folded_is_refused(tmp_path: Path, said: dict[str, Any], told: str):
    with pytest.raises(PlanError) as caught:
        check_against_peft(tmp_path, **{"target_modules": ["q_proj"], **said})
    assert told in str(caught.value)


def test_the_zoos_adapter_folds_as_peft_folds_it():
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one library about the other
        model = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
        expected = PeftModel.from_pretrained(model, ZOO / "verse-lora").merge_and_unload().state_dict()
    found = fold(ZOO / "verse-lora", open_checkpoint("./base", ZOO))
    assert len(found.native) == 42
    for name in found.tensors:
        weight = expected[name]
        # rank 8 and a scale of two: 2 ulp of the largest weight
        torch.testing.assert_close(
            read(found, name).float(), weight, rtol=0, atol=3e-7 * float(weight.abs().max())
        )


ROWS = '''
from surgery.ops import Layout, Take, layout_op

@layout_op("own.lower", models=1)
def lower(models, p):
    """Take rows 10 to 40 of a matrix."""
    return Layout({"lower": Take("tuned", "model.layers.1.mlp.up_proj.weight", (10, 40))}, models["tuned"].config)
'''


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe beside a bfloat16 base and an adapter of two matrices, runs it and returns the output folder."""
    torch.manual_seed(3)
    (tmp_path / "base").mkdir()
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(40, 24).bfloat16() for i in range(2)}
    save_file(
        {**tensors, "model.norm.weight": torch.ones(24).bfloat16()}, tmp_path / "base" / "model.safetensors"
    )
    config = {"model_type": "llama", "num_hidden_layers": 2, "dtype": "bfloat16"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "lora").mkdir()
    factors = {
        f"base_model.model.model.layers.{i}.mlp.up_proj.lora_A.weight": torch.randn(4, 24) for i in range(2)
    }
    factors |= {name.replace("lora_A", "lora_B"): torch.randn(40, 4) * 1e-3 for name in list(factors)}
    save_file(factors, tmp_path / "lora" / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(said))

    (tmp_path / "own.py").write_text(ROWS)

    def run(models: dict[str, Any], steps: dict[str, Any], output: dict[str, Any]) -> Path:
        recipe = {"surgery": 1, "models": models, "steps": steps, "output": {"to": "./out", **output}}
        (tmp_path / "r.yaml").write_text(json.dumps(recipe))
        surgery.load(tmp_path / "r.yaml", plugins=[tmp_path / "own.py"]).resolve(force=True).run(
            surgery.RunOptions(device="cpu", force=True)
        )
        return tmp_path / "out"

    return run


TUNED = {"source": "./base", "adapter": "./lora"}
UP = "model.layers.1.mlp.up_proj.weight"


def exact(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the base's weight and the adapter's product in float32."""
    factors = load_file(folder / "lora" / "adapter_model.safetensors")
    B, A = (factors[f"base_model.model.{UP.replace('weight', part)}.weight"] for part in ("lora_B", "lora_A"))
    return load_file(folder / "base" / "model.safetensors")[UP].float(), B @ A


def test_a_folded_model_is_written_in_its_bases_dtype_rounded_once(shop, tmp_path: Path):
    out = load_file(shop({"tuned": TUNED}, {}, {"model": "tuned"}) / "model.safetensors")
    W, delta = exact(tmp_path)
    assert torch.equal(out[UP], (W + delta).bfloat16())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_paths_may_be_relative_to_where_the_command_is_run(
    shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shop({"tuned": TUNED}, {}, {"model": "tuned"})
    monkeypatch.chdir(tmp_path)
    assert len(surgery.state_dict("r.yaml")) == 3


def test_ops_see_the_fold_before_it_is_rounded(shop, tmp_path: Path):
    steps = {
        "moved": {"op": "merge.task_arithmetic", "base": "base", "models": {"tuned": 1}, "lambda": 1000.0},
    }
    folder = shop({"base": "./base", "tuned": TUNED}, steps, {"model": "moved", "dtype": "float32"})
    W, delta = exact(tmp_path)
    error = (load_file(folder / "model.safetensors")[UP] - W - 1000 * delta).abs().max()
    rounded = ((W + delta).bfloat16().float() - W - delta).abs().max() * 1000
    # float32 of W+delta: half an ulp of |W| < 4, a thousand times; bfloat16 would have lost 65,536 times that
    assert error < 1000 * 2**-22 + 1e-5 < rounded / 100


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("op", "name", "rows"),
    [
        ({"op": "stitch.drop", "layers": "0:1"}, "model.layers.0.mlp.up_proj.weight", slice(None)),
        ({"op": "own.lower"}, "lower", slice(10, 40)),
    ],
)
def test_layers_and_rows_of_a_fold_are_taken_like_any_others(
    shop, tmp_path: Path, dtype: str, op, name, rows
):
    folder = shop({"tuned": TUNED}, {"cut": {**op, "model": "tuned"}}, {"model": "cut", "dtype": dtype})
    W, delta = exact(tmp_path)
    out = load_file(folder / "model.safetensors")[name]
    assert torch.equal(out, (W + delta)[rows].to(getattr(torch, dtype)))


def test_another_scale_in_the_config_makes_another_model(shop, tmp_path: Path):
    first = load_file(shop({"tuned": TUNED}, {}, {"model": "tuned"}) / "model.safetensors")[UP]
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 400'))
    again = load_file(shop({"tuned": TUNED}, {}, {"model": "tuned"}) / "model.safetensors")[UP]
    W, delta = exact(tmp_path)
    assert not torch.equal(first, again)
    torch.testing.assert_close(again.float(), W + 100 * delta, rtol=2**-8, atol=0)


def findings(shop: Any, adapter: str, folder: Path) -> list[str]:
    with pytest.raises(PlanError) as caught:
        shop({"tuned": {"source": "./base", "adapter": adapter}}, {}, {"model": "tuned"})
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def test_what_is_wrong_with_an_adapter_is_told_with_its_place_in_the_recipe(shop, tmp_path: Path):
    where = "r.yaml:1:68: models.tuned.adapter: "
    told = "there is no such file or folder; known: `base`, `lora`, `own.py`, `r.yaml`"
    assert findings(shop, "./nowhere", tmp_path) == [f"{where}./nowhere: {told}"]
    assert findings(shop, "./base", tmp_path) == [
        f"{where}./base: is no adapter in a known format; known: delta, peft"
    ]
    shutil.copytree(tmp_path / "lora", tmp_path / "other")
    (tmp_path / "other" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 0, "lora_alpha": 0}')
    lines = findings(shop, "./other", tmp_path)
    assert [line.partition("adapter_config.json: ")[2] for line in lines] == [
        "`r` must be a whole number above 0, got 0",
        "`lora_alpha` must be a number above 0, got 0",
    ]


def test_an_output_never_replaces_the_adapter(shop, tmp_path: Path):
    with pytest.raises(PlanError, match="lora holds a model that this recipe reads; write somewhere else"):
        shop({"tuned": TUNED}, {}, {"model": "tuned", "to": "./lora"})
