"""Tiny models of many architectures, made by transformers: merged, they load there, and nothing is lost.

A model merged with itself is the same bytes; a merge of two is each tensor's mean; outputs are finite.
"""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import surgery

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SMALL, "vocab_size": 32, "max_position_embeddings": 16, "pad_token_id": 0}
LLAMA = {**TEXT, "num_key_value_heads": 1}
PICTURE = {**SMALL, "image_size": 8, "patch_size": 4}
T5 = {"vocab_size": 32, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_decoder_layers": 2}
SEQ2SEQ = {
    f"{side}_{what}": count
    for side in ("encoder", "decoder")
    for what, count in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
}
SOUND = {"num_mel_bins": 4, "max_source_positions": 4, "max_target_positions": 8}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

IDS = torch.tensor([[3, 5, 7, 4]])
TALK = {"input_ids": IDS, "decoder_input_ids": IDS}
SEE = {"pixel_values": torch.ones(1, 3, 8, 8)}
HEAR = {"input_features": torch.ones(1, 4, 8), "decoder_input_ids": IDS}
PAIR = {"text_config": {**TEXT, "projection_dim": 8}, "vision_config": {**PICTURE, "projection_dim": 8}}

# class, what its config is made of, what it is asked, tensors that it must keep, layers
MODELS = {
    "llama with biases": ("LlamaForCausalLM", {**LLAMA, "attention_bias": True}, {"input_ids": IDS}, 29, 2),
    "bert": ("BertModel", TEXT, {"input_ids": IDS}, 39, 2),
    "t5": ("T5ForConditionalGeneration", {**T5, "num_heads": 2}, TALK, 39, 2),
    "whisper": (
        "WhisperForConditionalGeneration",
        {"vocab_size": 32, "d_model": 16, **SEQ2SEQ, **SOUND, **TOKENS},
        HEAR,
        50,
        1,
    ),
    "vit": ("ViTModel", PICTURE, SEE, 40, 2),
    "clip": ("CLIPModel", {**PAIR, "projection_dim": 8}, {"input_ids": IDS, **SEE}, 78, 2),
    "llava": ("LlavaForConditionalGeneration", None, {"input_ids": IDS}, 64, 2),
    "mamba": ("MambaForCausalLM", {**SMALL, "vocab_size": 32, "state_size": 4}, {"input_ids": IDS}, 22, 2),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 32, "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2},
        {"input_ids": IDS},
        28,
        2,
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", TEXT, {"input_ids": IDS}, 28, 2),
    "mixtral": ("MixtralForCausalLM", {**LLAMA, "num_local_experts": 2}, {"input_ids": IDS}, 29, 2),
    "gpt_oss": (
        "GptOssForCausalLM",
        {**LLAMA, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8},
        {"input_ids": IDS},
        37,
        2,
    ),
}


def make(name, seed):
    kind, settings, *_ = MODELS[name]
    cls = getattr(transformers, kind)
    if settings is None:  # LLaVA's parts
        text, vision = transformers.LlamaConfig(**LLAMA), transformers.CLIPVisionConfig(**PICTURE)
        config = cls.config_class(text_config=text, vision_config=vision, image_token_index=31)
    else:
        config = cls.config_class(**settings)
    torch.manual_seed(seed)
    return cls(config).eval()


def answers(folder, name):
    kind, _, inputs, *_ = MODELS[name]
    model, loading = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    with torch.no_grad():
        made = model.eval()(**inputs)
    return [value for value in made.to_tuple() if torch.is_tensor(value)]


def merge(folder, one, other, to):
    text = f"""
surgery: 1
models: {{one: ./{one}, other: ./{other}}}
steps: {{m: {{op: merge.linear, models: {{one: 0.5, other: 0.5}}}}}}
output: {{model: m, to: ./{to}}}
"""
    surgery.loads(text, folder=folder).run()
    return folder / to


@pytest.fixture(params=MODELS)
def case(request, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    for seed, to in enumerate(("a", "b")):
        make(request.param, seed).save_pretrained(tmp_path / to)
    return request.param, tmp_path


def test_a_merge_loads_and_answers(case):
    name, folder = case
    a, b = (load_file(folder / to / "model.safetensors") for to in "ab")
    assert len(a) == MODELS[name][3]
    same = merge(folder, "a", "a", "same")
    assert list(load_file(same / "model.safetensors")) == list(a)
    assert all(torch.equal(tensor, a[key]) for key, tensor in load_file(same / "model.safetensors").items())
    assert json.loads((same / "config.json").read_text()) == json.loads(
        (folder / "a/config.json").read_text()
    )
    before, after = answers(folder / "a", name), answers(same, name)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    mixed = load_file(merge(folder, "a", "b", "mixed") / "model.safetensors")
    assert all(torch.equal(mixed[key], (a[key] + b[key]) / 2) for key in a)
    assert all(torch.isfinite(value).all() for value in answers(folder / "mixed", name))


def test_layers_are_found(case):
    from surgery.checkpoint.open import open_checkpoint
    from surgery.host import Host
    from surgery.plan.virtual import from_checkpoint

    name, folder = case
    model = from_checkpoint("a", open_checkpoint("a", folder), Host().architectures())
    assert model.layers == MODELS[name][4]
    unknown = {n for n, info in model.tensors.items() if info.role.kind == "other"}
    assert all("projector" in n or "vision_tower" in n or n == "logit_scale" for n in unknown), unknown
