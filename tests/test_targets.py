"""What methods change by default."""

from __future__ import annotations

import pytest

from surgery.ops import Signature
from surgery.targets import is_block_linear, is_stack, is_target, matrix_shape
from surgery.tensors import Role, TensorSpec
from surgery_hf.architectures import ARCHITECTURES

ROLE_OF = next(a for a in ARCHITECTURES if a.name == "decoder").role_of
GENERIC = next(a for a in ARCHITECTURES if a.name == "generic").role_of


def signature(name, shape, role_of=ROLE_OF):
    spec = TensorSpec(name, shape, "BF16")
    return Signature(name, (spec,), None, (), role_of(name), spec.numel)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.self_attn.q_proj.weight",
        "model.layers.3.self_attn.kv_b_proj.weight",
        "model.layers.3.mlp.down_proj.weight",
        "model.layers.3.mlp.experts.7.up_proj.weight",
        "model.layers.3.mlp.shared_experts.gate_proj.weight",
        "model.layers.3.linear_attn.in_proj.weight",
        "model.decoder.layers.3.encoder_attn.q_proj.weight",
    ],
)
def test_linears_of_the_blocks_are(name):
    assert is_block_linear(signature(name, (8, 4)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (32, 8)),
        ("lm_head.weight", (32, 8)),
        ("model.layers.3.input_layernorm.weight", (8,)),
        ("model.layers.3.input_layernorm.weight", (8, 8)),
        ("model.layers.3.self_attn.q_norm.weight", (8, 8)),
        ("model.layers.3.mlp.gate.weight", (4, 8)),
        ("model.layers.3.mlp.shared_expert_gate.weight", (1, 8)),
        ("model.layers.3.self_attn.q_proj.bias", (8,)),
        ("model.layers.3.mlp.experts.gate_up_proj_bias", (4, 8)),
        ("model.layers.3.mixer.A_log", (16, 4)),
        ("model.layers.3.attn.rel_pos_h", (27, 8)),
        ("model.layers.3.SelfAttention.relative_attention_bias.weight", (32, 4)),
        ("model.layers.3.mixer.conv1d.weight", (16, 1, 4)),
        ("visual.blocks.3.attn.qkv.weight", (8, 8)),
    ],
)
def test_embeddings_heads_norms_routers_biases_and_towers_are_not(name, shape):
    assert not is_block_linear(signature(name, shape))


def test_a_stack_of_experts_is():
    stack = signature("model.layers.3.mlp.experts.gate_up_proj", (4, 8, 8))
    assert is_stack(stack)
    assert is_block_linear(stack)
    assert not is_stack(signature("model.layers.3.mlp.experts.7.up_proj.weight", (8, 8)))


def test_a_layer_of_an_unknown_model_is_told_by_its_number():
    assert is_block_linear(signature("net.blocks.2.ff.proj.weight", (8, 4), GENERIC))


def test_all_is_everything_with_two_dimensions():
    assert is_target(signature("lm_head.weight", (32, 8)), "all")
    assert not is_target(signature("lm_head.weight", (32, 8)), "linear")
    assert not is_target(signature("model.norm.weight", (8,)), "all")
    assert is_target(Signature("x", (TensorSpec("x", (2, 2), "F32"),), None, (), Role(), 4), "all")


def test_convolutions_and_experts_are_seen_as_matrices():
    assert matrix_shape(signature("visual.conv1.weight", (8, 3, 2, 2))) == (8, 12)
    assert matrix_shape(signature("model.layers.1.mlp.experts.down_proj", (8, 3, 2))) == (3, 2)
