"""What tensor names of the common models mean."""

from __future__ import annotations

import time

import pytest

from surgery.tensors import Role
from surgery_hf.architectures import ARCHITECTURES
from surgery_hf.roles import Scheme

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}

LLAMA = {
    "model.embed_tokens.weight": Role("embed"),
    "model.norm.weight": Role("norm.final"),
    "lm_head.weight": Role("head"),
    "model.rotary_emb.inv_freq": Role("other"),
    "model.layers.0.input_layernorm.weight": Role("norm.input", 0),
    "model.layers.31.post_attention_layernorm.weight": Role("norm.post", 31),
    "model.layers.3.self_attn.q_proj.weight": Role("attention.q", 3),
    "model.layers.3.self_attn.q_proj.bias": Role("attention.q", 3),
    "model.layers.3.self_attn.k_proj.weight": Role("attention.k", 3),
    "model.layers.3.self_attn.v_proj.weight": Role("attention.v", 3),
    "model.layers.3.self_attn.o_proj.weight": Role("attention.o", 3),
    "model.layers.3.self_attn.q_norm.weight": Role("attention.norm", 3),
    "model.layers.3.self_attn.rotary_emb.inv_freq": Role("other", 3),
    "model.layers.3.mlp.gate_proj.weight": Role("mlp.gate", 3),
    "model.layers.3.mlp.up_proj.weight_scale_inv": Role("mlp.up", 3),
    "model.layers.3.mlp.down_proj.weight": Role("mlp.down", 3),
}

OTHER_DECODERS = {
    # phi3: fused projections; phi: dense and fc1; gemma2: four norms
    "model.layers.0.self_attn.qkv_proj.weight": Role("attention.qkv", 0),
    "model.layers.0.mlp.gate_up_proj.weight": Role("mlp.gate_up", 0),
    "model.layers.0.self_attn.dense.weight": Role("attention.o", 0),
    "model.layers.0.mlp.fc1.weight": Role("mlp.up", 0),
    "model.layers.0.mlp.fc2.bias": Role("mlp.down", 0),
    "model.final_layernorm.weight": Role("norm.final"),
    "model.layers.0.pre_feedforward_layernorm.weight": Role("norm.post", 0),
    "model.layers.0.post_feedforward_layernorm.weight": Role("norm.post", 0),
    # multimodal: the language model's layers count, the tower's do not
    "model.language_model.layers.7.self_attn.q_proj.weight": Role("attention.q", 7),
    "language_model.model.embed_tokens.weight": Role("embed"),
    "vision_tower.vision_model.encoder.layers.7.self_attn.q_proj.weight": Role("other"),
    "model.visual.patch_embed.proj.weight": Role("other"),
    "mtp.layers.0.self_attn.q_proj.weight": Role("other"),
}

EXPERTS = {
    # mixtral
    "model.layers.2.block_sparse_moe.gate.weight": Role("router", 2),
    "model.layers.2.block_sparse_moe.experts.7.w1.weight": Role("experts.gate", 2, 7),
    "model.layers.2.block_sparse_moe.experts.7.w2.weight": Role("experts.down", 2, 7),
    "model.layers.2.block_sparse_moe.experts.7.w3.weight": Role("experts.up", 2, 7),
    # qwen2_moe, qwen3_moe, deepseek
    "model.layers.2.mlp.gate.weight": Role("router", 2),
    "model.layers.2.mlp.gate.e_score_correction_bias": Role("router", 2),
    "model.layers.2.mlp.experts.127.gate_proj.weight": Role("experts.gate", 2, 127),
    "model.layers.2.mlp.experts.127.up_proj.weight": Role("experts.up", 2, 127),
    "model.layers.2.mlp.experts.127.down_proj.weight_scale_inv": Role("experts.down", 2, 127),
    "model.layers.2.mlp.shared_expert.gate_proj.weight": Role("shared_expert.gate", 2),
    "model.layers.2.mlp.shared_experts.up_proj.weight": Role("shared_expert.up", 2),
    "model.layers.2.mlp.shared_experts.down_proj.weight": Role("shared_expert.down", 2),
    "model.layers.2.mlp.shared_expert_gate.weight": Role("shared_expert.router", 2),
    # multi-head latent attention
    "model.layers.2.self_attn.q_a_proj.weight": Role("attention.q_a", 2),
    "model.layers.2.self_attn.q_b_proj.weight": Role("attention.q_b", 2),
    "model.layers.2.self_attn.kv_a_proj_with_mqa.weight": Role("attention.kv_a", 2),
    "model.layers.2.self_attn.kv_b_proj.weight": Role("attention.kv_b", 2),
    "model.layers.2.self_attn.kv_a_layernorm.weight": Role("attention.norm", 2),
    # stacked: llama4, gpt-oss, granite
    "model.layers.2.feed_forward.router.weight": Role("router", 2),
    "model.layers.2.feed_forward.experts.gate_up_proj": Role("experts.gate_up", 2),
    "model.layers.2.mlp.experts.gate_up_proj_bias": Role("experts.gate_up", 2),
    "model.layers.2.mlp.experts.down_proj_blocks": Role("experts.down", 2),
    "model.layers.2.self_attn.sinks": Role("attention.sinks", 2),
    "model.layers.2.block_sparse_moe.input_linear.weight": Role("experts.gate_up", 2),
    "model.layers.2.block_sparse_moe.router.layer.weight": Role("router", 2),
    "model.layers.2.shared_mlp.output_linear.weight": Role("shared_expert.down", 2),
}

GPT2 = {
    "transformer.wte.weight": Role("embed"),
    "wte.weight": Role("embed"),
    "transformer.wpe.weight": Role("embed.position"),
    "transformer.ln_f.bias": Role("norm.final"),
    "transformer.h.11.ln_1.weight": Role("norm.input", 11),
    "transformer.h.11.ln_2.bias": Role("norm.post", 11),
    "h.11.attn.c_attn.weight": Role("attention.qkv", 11),
    "h.11.attn.c_proj.bias": Role("attention.o", 11),
    "h.11.mlp.c_fc.weight": Role("mlp.up", 11),
    "h.11.mlp.c_proj.weight": Role("mlp.down", 11),
    "h.11.attn.bias": Role("other", 11),
}

BERT = {
    "bert.embeddings.word_embeddings.weight": Role("embed"),
    "embeddings.position_embeddings.weight": Role("embed.position"),
    "embeddings.token_type_embeddings.weight": Role("embed.type"),
    "bert.embeddings.LayerNorm.bias": Role("norm.embed"),
    "bert.encoder.layer.5.attention.self.query.weight": Role("attention.q", 5),
    "bert.encoder.layer.5.attention.self.key.bias": Role("attention.k", 5),
    "bert.encoder.layer.5.attention.self.value.weight": Role("attention.v", 5),
    "bert.encoder.layer.5.attention.output.dense.weight": Role("attention.o", 5),
    "bert.encoder.layer.5.attention.output.LayerNorm.weight": Role("norm.post", 5),
    "bert.encoder.layer.5.intermediate.dense.weight": Role("mlp.up", 5),
    "bert.encoder.layer.5.output.dense.bias": Role("mlp.down", 5),
    "bert.encoder.layer.5.output.LayerNorm.bias": Role("norm.post", 5),
    "bert.pooler.dense.weight": Role("head.pooler"),
    "cls.predictions.transform.dense.weight": Role("head.transform"),
    "cls.predictions.decoder.weight": Role("head"),
    "classifier.weight": Role("head"),
}

UNKNOWN_TYPES = {
    "gpt_neox.layers.4.attention.query_key_value.weight": Role("attention.qkv", 4),
    "gpt_neox.layers.4.mlp.dense_4h_to_h.weight": Role("mlp.down", 4),
    "gpt_neox.embed_in.weight": Role("embed"),
    "embed_out.weight": Role("head"),
    "transformer.h.4.self_attention.dense.weight": Role("attention.o", 4),
    "transformer.blocks.4.attn.Wqkv.weight": Role("attention.qkv", 4),
    "transformer.blocks.4.ffn.up_proj.weight": Role("mlp.up", 4),
    "transformer.norm_f.weight": Role("norm.final"),
    "model.decoder.layers.4.fc1.weight": Role("mlp.up", 4),
    "encoder.block.4.layer.0.SelfAttention.q.weight": Role("attention.q", 4),
    "encoder.block.4.layer.1.DenseReluDense.wo.weight": Role("mlp.down", 4),
    "body.layers.4.something.new": Role("other", 4),
    "something.new": Role("other"),
    "layers.new": Role("other"),
    "": Role("other"),
}

CASES = [
    (scheme, name, role)
    for scheme, table in [
        ("decoder", LLAMA),
        ("decoder", OTHER_DECODERS),
        ("decoder", EXPERTS),
        ("gpt2", GPT2),
        ("bert", BERT),
        ("generic", UNKNOWN_TYPES),
        ("generic", LLAMA),
        ("generic", GPT2),
        ("generic", BERT),
    ]
    for name, role in table.items()
]


@pytest.mark.parametrize(("scheme", "name", "role"), CASES)
def test_a_name_gives_its_role(scheme, name, role):
    assert BY_NAME[scheme].role_of(name) == role


@pytest.mark.parametrize(
    ("scheme", "name", "moved"),
    [
        ("decoder", "layers.3.mlp.experts.5.up_proj.weight", "layers.10.mlp.experts.5.up_proj.weight"),
        ("decoder", "model.language_model.layers.12.q", "model.language_model.layers.10.q"),
        ("decoder", "model.norm.weight", "model.norm.weight"),
        ("gpt2", "transformer.h.0.attn.bias", "transformer.h.10.attn.bias"),
        ("bert", "encoder.layer.1.output.dense.weight", "encoder.layer.10.output.dense.weight"),
        ("generic", "encoder.block.1.layer.0.SelfAttention.q", "encoder.block.10.layer.0.SelfAttention.q"),
    ],
)
def test_renaming_changes_the_layers_index_alone(scheme, name, moved):
    assert BY_NAME[scheme].rename_layer(name, 10) == moved


def test_ninety_thousand_names_take_less_than_two_seconds():
    scheme = Scheme("layers")
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.{suffix}"
        for layer in range(60)
        for expert in range(256)
        for part in ("gate", "up", "down")
        for suffix in ("weight", "weight_scale_inv")
    ]
    start = time.process_time()
    roles = {scheme.role_of(name) for name in names}
    assert time.process_time() - start < 2
    assert len(names) > 90_000
    assert len(roles) == 60 * 256 * 3
