"""What the words in names mean beyond language decoders (`test_roles.py` has those)."""

from __future__ import annotations

import pytest

from surgery_hf.words import kind_inside, kind_outside

INSIDE = {
    # T5: what a layer norm stands before is told by the number of the sublayer
    "layer.0.SelfAttention.q.weight": "attention.q",
    "layer.0.SelfAttention.relative_attention_bias.weight": "attention.position",
    "layer.0.layer_norm.weight": "norm.input",
    "layer.1.layer_norm.weight": "norm.post",
    "layer.1.EncDecAttention.o.weight": "cross_attention.o",
    "layer.2.DenseReluDense.wi_0.weight": "mlp.gate",
    # BART and Whisper
    "encoder_attn.v_proj.bias": "cross_attention.v",
    "encoder_attn_layer_norm.weight": "norm.cross",
    # CLIP, ViT, timm, torch
    "layer_norm1.weight": "norm.input",
    "layernorm_after.bias": "norm.post",
    "attention.attention.query.weight": "attention.q",
    "attn.proj.weight": "attention.o",
    "attn.qkv.bias": "attention.qkv",
    "attn.in_proj_weight": "attention.qkv",
    "attn.rel_pos_h": "attention.position",
    # encoders: DistilBERT, DeBERTa, ModernBERT, wav2vec 2.0
    "ffn.lin1.weight": "mlp.up",
    "ffn.lin2.weight": "mlp.down",
    "sa_layer_norm.weight": "norm.post",
    "attention.self.query_proj.weight": "attention.q",
    "mlp.Wi.weight": "mlp.gate_up",
    "feed_forward.output_dense.weight": "mlp.down",
    # numbered again inside: ALBERT, Swin, diffusers
    "albert_layers.0.attention.dense.weight": "attention.o",
    "albert_layers.0.ffn.weight": "mlp.up",
    "albert_layers.0.ffn_output.bias": "mlp.down",
    "blocks.1.layernorm_before.weight": "norm.input",
    "resnets.0.conv1.weight": "conv",
    "resnets.0.norm1.weight": "norm.input",
    "attentions.0.transformer_blocks.0.attn1.to_out.0.weight": "attention.o",
    "attentions.0.transformer_blocks.0.attn2.to_k.weight": "cross_attention.k",
    "attentions.0.transformer_blocks.0.ff.net.0.proj.weight": "mlp.up",
    "attentions.0.transformer_blocks.0.ff.net.2.bias": "mlp.down",
    # state spaces
    "mixer.in_proj.weight": "mixer.in",
    "mixer.A_log": "mixer.a",
    "mamba.dt_proj.weight": "mixer.dt",
    "linear_attn.out_proj.weight": "mixer.out",
    "linear_attn.norm.weight": "mixer.norm",
    "norm.weight": "norm.input",
    # words that say nothing known
    "layer_scale1.lambda1": "other",
    "attention.receptance.weight": "other",
    "normal.weight": "norm",
}

OUTSIDE = {
    "backbone.embeddings.weight": "embed",
    "text_model.embeddings.token_embedding.weight": "embed",
    "text_model.embeddings.position_embedding.weight": "embed.position",
    "embeddings.patch_embeddings.projection.weight": "embed.patch",
    "vit.embeddings.cls_token": "embed.class",
    "model.encoder.layernorm_embedding.weight": "norm.embed",
    "embeddings.layernorm.weight": "norm.embed",
    "wav2vec2.feature_projection.layer_norm.weight": "embed.features",
    "model.encoder.layer_norm.weight": "norm.final",
    "model.encoder.conv1.bias": "embed.features",
    "vit.layernorm.weight": "norm.final",
    "visual_projection.weight": "head.projection",
    "proj_out.weight": "head",
    "decoder.proj_out.weight": "other",
    "logit_scale": "other",
}


@pytest.mark.parametrize(("rest", "kind"), INSIDE.items())
def test_words_inside_a_layer_give_a_role(rest, kind):
    assert kind_inside(rest) == kind


@pytest.mark.parametrize(("name", "kind"), OUTSIDE.items())
def test_words_outside_the_layers_give_a_role(name, kind):
    assert kind_outside(name) == kind


def test_a_name_of_many_numbers_ends():
    assert kind_inside("layers.0." * 5000 + "q") == "other"
