"""Tiny checkpoints are what they say and load like real ones."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from surgery.tensors import TensorSpec
from surgery.testing import save_tiny, tiny_config, tiny_llama, tiny_specs


def test_names_and_shapes_of_one_layer():
    assert {name: spec.shape for name, spec in tiny_specs(layers=1).items()} == {
        "model.embed_tokens.weight": (32, 16),
        "model.layers.0.input_layernorm.weight": (16,),
        "model.layers.0.self_attn.q_proj.weight": (16, 16),
        "model.layers.0.self_attn.k_proj.weight": (8, 16),
        "model.layers.0.self_attn.v_proj.weight": (8, 16),
        "model.layers.0.self_attn.o_proj.weight": (16, 16),
        "model.layers.0.post_attention_layernorm.weight": (16,),
        "model.layers.0.mlp.gate_proj.weight": (32, 16),
        "model.layers.0.mlp.up_proj.weight": (32, 16),
        "model.layers.0.mlp.down_proj.weight": (16, 32),
        "model.norm.weight": (16,),
        "lm_head.weight": (32, 16),
    }


def test_the_tensors_are_those_of_the_specs():
    settings = {"layers": 3, "hidden": 8, "heads": 2, "kv_heads": 1, "intermediate": 12, "vocab": 10}
    tensors, config = tiny_llama(**settings, dtype="bfloat16")
    specs = tiny_specs(**settings, dtype="bfloat16")
    assert list(tensors) == list(specs)
    assert all(tuple(tensors[name].shape) == spec.shape for name, spec in specs.items())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert config == tiny_config(**settings, dtype="bfloat16")


def test_a_seed_gives_the_same_values_and_another_gives_others():
    a, _ = tiny_llama(seed=1)
    b, _ = tiny_llama(seed=1)
    c, _ = tiny_llama(seed=2)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])


def test_a_tied_model_stores_no_head():
    tensors, config = tiny_llama(tied=True)
    assert "lm_head.weight" not in tensors
    assert config["tie_word_embeddings"] is True


def test_specs_need_no_values():
    assert tiny_specs(dtype="float16")["model.norm.weight"] == TensorSpec("model.norm.weight", (16,), "F16")


def test_a_saved_checkpoint_holds_the_same(tmp_path):
    folder = save_tiny(tmp_path / "new" / "tiny", seed=4, layers=1)
    tensors, config = tiny_llama(seed=4, layers=1)
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensors[name]) for name in tensors)
    assert json.loads((folder / "config.json").read_text()) == config


@pytest.mark.slow
def test_transformers_loads_it_whole(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = save_tiny(tmp_path, layers=2)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    logits = model(torch.arange(5)[None]).logits
    assert logits.shape == (1, 5, 32)
    assert torch.isfinite(logits).all()
