"""stitch.upcycle: transformers loads the mixture, and it computes what the dense model does."""

from __future__ import annotations

import json

import pytest
import torch

from surgery import PlanError, RecipeError
from tests.plugins.stitch.dense import assert_same, load, run, save
from tests.plugins.stitch.vocabularies import config, tensors

UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
MOE = "model.layers.1.block_sparse_moe."


@pytest.mark.parametrize(
    ("kind", "settings", "step"),
    [
        ("llama", {}, ""),
        ("llama", {"tie_word_embeddings": True, "head_dim": 8}, ", gate: random, experts_per_token: 3"),
        ("llama", {"rms_norm_eps": 1e-3}, ", layout: qwen2_moe, shared_scale: 0.0"),
        ("mistral", {"sliding_window": 4, "num_key_value_heads": 4}, ", experts_per_token: 1"),
        ("mistral", {"sliding_window": None}, ", layout: qwen2_moe, shared_scale: 0.0"),
        ("qwen2", {}, ", shared_scale: 0.0"),
        ("qwen3", {"head_dim": 8, "attention_bias": True}, ", gate: zero"),
    ],
)
def test_copies_compute_what_the_dense_model_does(tmp_path, kind, settings, step):
    dense = save(tmp_path / "a", kind, **settings)
    made = load(run(tmp_path, f"op: stitch.upcycle, model: a, experts: 3{step}"))
    assert made.config.num_experts == 3
    assert_same(made, dense)


@pytest.mark.parametrize(
    ("kind", "heads", "step"),
    [("llama", None, ""), ("mistral", 8, ""), ("qwen2", 32, ", shared_scale: 0.0"), ("qwen3", 32, "")],
)
def test_what_a_config_leaves_to_its_class_is_written_out(tmp_path, kind, heads, step):
    """A mixture's class has other defaults: Mixtral 8 key-value heads, and a rotary base of a million."""
    sizes = {"num_attention_heads": heads or 4, "hidden_size": 4 * (heads or 4)}
    dense = save(tmp_path / "a", kind, **sizes, num_key_value_heads=heads)
    silent = "rms_norm_eps rope_parameters hidden_act tie_word_embeddings num_key_value_heads sliding_window"
    written = config(tmp_path / "a")
    for key in [*silent.split(), "attention_bias", "head_dim"]:
        written.pop(key, None)
    (tmp_path / "a" / "config.json").write_text(json.dumps(written))
    assert_same(load(run(tmp_path, f"op: stitch.upcycle, model: a, experts: 2{step}")), dense)


def test_matrices_are_copied_under_the_experts_names(tmp_path):
    save(tmp_path / "a")
    out = run(tmp_path, "op: stitch.upcycle, model: a, experts: 4")
    made, before = tensors(out), tensors(tmp_path / "a")
    assert len(made) == 3 + 2 * (6 + 1 + 4 * 3)
    for e in range(4):
        assert torch.equal(made[f"{MOE}experts.{e}.w3.weight"], before[UP])
        assert torch.equal(made[f"{MOE}experts.{e}.w2.weight"], before[DOWN])
    assert made[f"{MOE}gate.weight"].shape == (4, 16)
    assert config(out)["num_experts_per_tok"] == 2


def test_routers_differ_from_layer_to_layer_and_keep_their_bound(tmp_path):
    save(tmp_path / "a")
    made = tensors(run(tmp_path, "op: stitch.upcycle, model: a"))
    first, second = (made[f"model.layers.{layer}.block_sparse_moe.gate.weight"] for layer in (0, 1))
    assert first.shape == (8, 16)
    assert not torch.equal(first, second)
    assert 0.2 < first.abs().max() <= 0.25  # 1/√16


def test_noise_makes_the_copies_differ(tmp_path):
    save(tmp_path / "a")
    made = tensors(run(tmp_path, "op: stitch.upcycle, model: a, experts: 3, noise_scale: 0.5"))
    changes = [made[f"{MOE}experts.{e}.w3.weight"] - tensors(tmp_path / "a")[UP] for e in range(3)]
    assert all(0.4 < change.std() < 0.6 for change in changes)
    assert not torch.equal(changes[0], changes[1])


def test_the_shared_expert_of_a_zero_router_is_halved(tmp_path):
    """Routed and shared are equal: (1 + sigmoid(0)·2) of what the dense MLP gives."""
    dense = save(tmp_path / "a", "qwen2")
    made = load(run(tmp_path, "op: stitch.upcycle, model: a, gate: zero, shared_scale: 2.0"))
    x = torch.randn(1, 5, 16)
    with torch.no_grad():
        expected, found = (each.model.layers[1].mlp(x) for each in (dense, made))
    assert torch.allclose(found, 2 * expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "step", "text"),
    [
        (
            "llama",
            "experts: 2, experts_per_token: 3",
            "experts_per_token: 1 to 2, the number of experts, got 3",
        ),
        (
            "llama",
            "layout: qwen2_moe",
            "`layout: qwen2_moe` needs a shared expert, got none; add `shared_scale`",
        ),
        (
            "llama",
            "shared_scale: 1.0",
            "`layout: mixtral` has no shared expert, got one; remove `shared_scale`",
        ),
        (
            "qwen3",
            "layout: mixtral",
            "`a` is a qwen3, which cannot become `layout: mixtral`; write `qwen3_moe`",
        ),
        (
            "mixtral",
            "experts: 2",
            "`a` is no dense model that a mixture can be made of, got model type `mixtral`; "
            "give models of type `llama`, `mistral`, `qwen2`, `qwen3`",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, kind, step, text):
    save(tmp_path / "a", kind)
    with pytest.raises(PlanError) as error:
        run(tmp_path, f"op: stitch.upcycle, model: a, {step}")
    assert str(error.value).partition("steps.m: ")[2] == text


def test_a_gate_of_prompts_belongs_to_stitch_moe(tmp_path):
    save(tmp_path / "a")
    with pytest.raises(RecipeError, match="must be `zero`, `random` or `uniform_random`, got `cheap_embed`"):
        run(tmp_path, "op: stitch.upcycle, model: a, gate: cheap_embed")
