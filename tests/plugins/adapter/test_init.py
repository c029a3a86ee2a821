"""adapter.init by itself, then with adapter.residual and peft: the model computes what it did."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery.errors import PlanError, RecipeError
from surgery.tensors import Role
from surgery.testing import run_emitting_op
from surgery_adapter.init import init
from tests.plugins.adapter.conftest import filled

ZOO = Path(__file__).parents[3] / "recipes" / "zoo"
M = "base_model.model."
Q = Role("attention.q", 0)
PARTS = ["svd", "qr", "nystrom", "ldu"]


def begun(
    W: torch.Tensor, role: Role = Q, name: str = "m.q.weight", seed: int = 0, **p: Any
) -> list[torch.Tensor]:
    made = run_emitting_op(init, {"base_model": "x", **p}, [W], name=name, role=role, seed=seed)
    return [made[key] for key in sorted(made)]


def test_zero_draws_a_within_its_bound_and_leaves_b_zero():
    A, B = begun(filled(20, 64), rank=8)
    assert (A.shape, B.shape) == ((8, 64), (20, 8))
    assert B.count_nonzero() == 0
    assert float(A.abs().max()) < 1 / 8
    assert float(A.std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)


def test_an_embeddings_b_is_normal_and_a_is_zero_as_peft_begins_them():
    A, B = begun(filled(300, 40), Role("embed"), "m.e.weight", rank=8, targets="all")
    assert (A.shape, B.shape) == ((8, 300), (40, 8))
    assert A.count_nonzero() == 0
    assert float(B.std()) == pytest.approx(1, rel=0.15)


def test_draws_follow_the_seed_and_the_name_alone():
    (first, _), (same, _) = begun(filled(4, 6), rank=2), begun(filled(4, 6, seed=9), rank=2)
    assert torch.equal(first, same)
    assert not torch.equal(first, begun(filled(4, 6), rank=2, seed=1)[0])
    assert not torch.equal(first, begun(filled(4, 6), rank=2, name="m.k.weight")[0])


@pytest.mark.parametrize("method", PARTS)
def test_the_scale_is_taken_out_of_both_factors(method: str):
    W = filled(6, 5)
    (A, B), (a, b) = begun(W, rank=3, method=method), begun(W, rank=3, method=method, alpha=12)
    torch.testing.assert_close(A, 2 * a)
    torch.testing.assert_close(B, 2 * b)


def test_a_direction_that_a_weight_lacks_is_drawn():
    A, B = begun(filled(6, 1) @ filled(1, 5), rank=2, method="ldu")
    assert A[1].count_nonzero() == 5
    assert B[:, 1].count_nonzero() == 0


def recipe(folder: Path, model: str = "base", **params: Any) -> dict[str, Any]:
    how = {"model": "base", "rank": 8, **params}
    shared = {key: value for key, value in how.items() if key != "base_model"}
    return {
        "surgery": 1,
        "models": {"base": model},
        "steps": {
            "lora": {"op": "adapter.init", "base_model": "rest", **how},
            "rest": {"op": "adapter.residual", **shared},
        },
        "outputs": {
            "lora": {"model": "lora", "to": str(folder / "lora")},
            "rest": {"model": "rest", "to": str(folder / "rest"), "dtype": "float32"},
        },
    }


def run(said: dict[str, Any], folder: Path) -> None:
    surgery.loads(json.dumps(said), folder=folder).resolve().run(surgery.RunOptions(device="cpu"))


@pytest.mark.parametrize(("method", "alpha"), [("svd", 32), ("qr", 8), ("nystrom", 8), ("ldu", 2)])
def test_peft_on_the_residual_base_computes_what_the_model_did(tmp_path: Path, method: str, alpha: int):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run(recipe(tmp_path, str(ZOO / "base"), method=method, alpha=alpha), tmp_path)
    tokens = torch.arange(24).view(2, 12)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wanted = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)(tokens).logits
        rest = AutoModelForCausalLM.from_pretrained(tmp_path / "rest")
        alone = rest(tokens).logits
        found = PeftModel.from_pretrained(rest, tmp_path / "lora")(tokens).logits
    assert rest.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6
    assert float((alone - wanted).norm() / wanted.norm()) > 0.01


def test_peft_with_what_zero_writes_computes_what_the_model_does(tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    said = recipe(tmp_path, str(ZOO / "base"), method="zero", rank=4)
    del said["steps"]["rest"], said["steps"]["lora"]["base_model"], said["outputs"]["rest"]
    run(said, tmp_path)
    tokens = torch.arange(24).view(2, 12)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
        wanted = base(tokens).logits
        model = PeftModel.from_pretrained(base, tmp_path / "lora", is_trainable=True)
        assert torch.equal(model(tokens).logits, wanted)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 6 * 7 * 2  # both factors of seven Linears in six layers
    assert model.peft_config["default"].base_model_name_or_path == "base"


@pytest.mark.parametrize(
    ("method", "dtype"), [("svd", "float32"), ("qr", "float32"), ("nystrom", "bfloat16"), ("ldu", "float32")]
)
def test_base_and_adapter_add_up_to_the_weight(tmp_path: Path, method: str, dtype: str):
    run(recipe(tmp_path, str(ZOO / "base"), method=method, dtype=dtype, alpha=4), tmp_path)
    base, rest, lora = (
        load_file(folder / name)
        for folder, name in (
            (ZOO / "base", "model.safetensors"),
            (tmp_path / "rest", "model.safetensors"),
            (tmp_path / "lora", "adapter_model.safetensors"),
        )
    )
    assert set(rest) == set(base)
    for name, tensor in base.items():
        W, module = tensor.double(), M + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in lora:
            assert torch.equal(rest[name].double(), W), name
            continue
        A, B = (lora[f"{module}.lora_{side}.weight"].double() for side in "AB")
        found = rest[name].double() + 0.5 * (B @ A)
        assert float((found - W).norm() / W.norm()) < 1e-6, name


def test_the_config_gives_every_module_the_same_scale(tmp_path: Path):
    said = recipe(tmp_path, str(ZOO / "base"), method="svd", alpha=200, rank=100)
    del said["steps"]["rest"], said["outputs"]["rest"]
    run(said, tmp_path)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (100, 200.0, "rest")
    ranks, alphas = config["rank_pattern"], config["alpha_pattern"]
    assert set(ranks.values()) == {64}  # keys and values of 64 rows
    assert {module: 2 * rank for module, rank in ranks.items()} == alphas


def test_gpt2s_weights_in_out_add_up_too(tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=31, n_positions=8)).save_pretrained(
        tmp_path / "base"
    )
    run(recipe(tmp_path, "./base", method="svd", fan_in_fan_out=True), tmp_path)
    back = {
        "surgery": 1,
        "models": {"b": {"source": "./rest", "adapter": "./lora"}},
        "output": {"model": "b"},
    }
    found = surgery.state_dict(surgery.loads(json.dumps(back), folder=tmp_path))
    for name, W in load_file(tmp_path / "base" / "model.safetensors").items():
        torch.testing.assert_close(found[name], W, rtol=0, atol=1e-6 * max(float(W.abs().max()), 1e-3))


def test_what_takes_a_part_must_say_whose_adapter_it_is(tmp_path: Path):
    said = recipe(tmp_path, str(ZOO / "base"), method="svd")
    del said["steps"]["lora"]["base_model"]
    with pytest.raises(RecipeError) as caught:
        run(said, tmp_path)
    told = "`method: svd` takes a part out of the base; say in `base_model` where the result of"
    assert f"{told} `adapter.residual` will be" in str(caught.value)


def test_a_residual_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError) as caught:
        run(recipe(tmp_path, str(ZOO / "base")), tmp_path)
    told = "`method: zero` leaves the base as it is; name the method of the `adapter.init` step"
    assert told in str(caught.value)


def test_nothing_to_give_factors_to_is_refused(tmp_path: Path):
    said = recipe(tmp_path, str(ZOO / "base"), method="svd", where="norm")
    with pytest.raises(PlanError, match=r"steps\.lora: gives factors to nothing: no matrix is left"):
        run(said, tmp_path)
