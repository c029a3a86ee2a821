"""What the words in tensor names mean, as data: inside a layer and outside of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_T5: Final = r"(?:layer\.\d\.)?"
_ATTENTION: Final = (
    rf"{_T5}(?:self_attn|self_attention|attention|attn|attn1|SelfAttention)(?:\.self|\.attention)?"
)
_CROSS: Final = (
    rf"{_T5}(?:encoder_attn|EncDecAttention|crossattention|cross_attn\w*|cross_attention|attn2|multihead_attn)"
    r"(?:\.self)?"
)
_MLP: Final = rf"{_T5}(?:mlp|feed_forward|ffn|ff|block_sparse_moe|moe|DenseReluDense|DenseGatedActDense)"
_EXPERTS: Final = rf"{_MLP}\.experts\.(?:\#\.|mlp\.)?"
_SHARED: Final = rf"{_MLP}\.shared_experts?\."
_MIXER: Final = r"(?:mixer|mamba|linear_attn|ssm)"
_GATE: Final = r"(?:gate_proj|w1|wi_0)"
_UP: Final = r"(?:up_proj|w3|wi_1)"
_DOWN: Final = r"(?:down_proj|w2|wo)"
_Q: Final = r"(?:q_proj|query|query_proj|wq|q_lin|to_q|q)"
_K: Final = r"(?:k_proj|key|key_proj|wk|k_lin|to_k|k)"
_V: Final = r"(?:v_proj|value|value_proj|wv|v_lin|to_v|v)"
_O: Final = (
    r"(?:o_proj|out_proj|output\.dense|dense|c_proj|wo|Wo|out_lin|to_out\.0|output\.proj|proj|output|o)"
)
_QKV: Final = r"(?:qkv_proj|query_key_value|c_attn|Wqkv|W_pack|wqkv|qkv|in_proj)"

# Inside a layer: the first row that matches the beginning of the rest, up to the end of a word, wins.
IN_LAYER: Final = (
    (
        rf"{_ATTENTION}\.(?:relative_attention_bias|relative_position_bias_table|rel_pos_[hw]|rel_pos_bias)",
        "attention.position",
    ),
    (rf"{_ATTENTION}\.(?:output\.LayerNorm|LayerNorm)", "norm.post"),
    (rf"{_ATTENTION}\.{_Q}", "attention.q"),
    (rf"{_ATTENTION}\.{_K}", "attention.k"),
    (rf"{_ATTENTION}\.{_V}", "attention.v"),
    (rf"{_ATTENTION}\.{_O}", "attention.o"),
    (rf"{_ATTENTION}\.{_QKV}", "attention.qkv"),
    (rf"{_ATTENTION}\.(?:q|k|q_a|kv_a|query|key)_(?:norm|layernorm|layer_norm)", "attention.norm"),
    # multi-head latent attention: queries and keys with values through a narrow space
    (rf"{_ATTENTION}\.q_a_proj", "attention.q_a"),
    (rf"{_ATTENTION}\.q_b_proj", "attention.q_b"),
    (rf"{_ATTENTION}\.kv_a_proj(?:_with_mqa)?", "attention.kv_a"),
    (rf"{_ATTENTION}\.kv_b_proj", "attention.kv_b"),
    (rf"{_ATTENTION}\.sinks", "attention.sinks"),
    # a decoder's attention to its encoder, or a picture's to its text
    (rf"{_CROSS}\.(?:output\.LayerNorm|LayerNorm)|encoder_attn_layer_norm", "norm.cross"),
    (rf"{_CROSS}\.{_Q}", "cross_attention.q"),
    (rf"{_CROSS}\.{_K}", "cross_attention.k"),
    (rf"{_CROSS}\.{_V}", "cross_attention.v"),
    (rf"{_CROSS}\.{_O}", "cross_attention.o"),
    (rf"{_CROSS}\.{_QKV}", "cross_attention.qkv"),
    # state space models and linear attention
    (rf"{_MIXER}\.(?:in_proj|in_proj_qkvz|in_proj_ba|in_proj_qkv|in_proj_[abz])", "mixer.in"),
    (rf"{_MIXER}\.out_proj", "mixer.out"),
    (rf"{_MIXER}\.(?:x_proj|bcdt_proj)", "mixer.x"),
    (rf"{_MIXER}\.(?:dt_proj|dt_bias)", "mixer.dt"),
    (rf"{_MIXER}\.conv1d", "mixer.conv"),
    (rf"{_MIXER}\.A_log", "mixer.a"),
    (rf"{_MIXER}\.D", "mixer.d"),
    (rf"{_MIXER}\.(?:norm|dt_layernorm|[bc]_layernorm)", "mixer.norm"),
    (rf"{_EXPERTS}(?:gate_up_proj|w1w3)", "experts.gate_up"),
    (rf"{_EXPERTS}{_GATE}", "experts.gate"),
    (rf"{_EXPERTS}{_UP}", "experts.up"),
    (rf"{_EXPERTS}{_DOWN}", "experts.down"),
    (rf"{_MLP}\.input_linear", "experts.gate_up"),
    (rf"{_MLP}\.output_linear", "experts.down"),
    (rf"{_SHARED}{_GATE}", "shared_expert.gate"),
    (rf"{_SHARED}{_UP}", "shared_expert.up"),
    (rf"{_SHARED}{_DOWN}", "shared_expert.down"),
    (rf"{_SHARED}gate_up_proj|shared_mlp\.input_linear", "shared_expert.gate_up"),
    (r"shared_mlp\.output_linear", "shared_expert.down"),
    (rf"{_MLP}\.shared_expert_gate", "shared_expert.router"),
    (rf"{_MLP}\.(?:gate|router|e_score_correction_bias)", "router"),
    (rf"{_MLP}\.(?:gate_up_proj|Wi|weights_in)", "mlp.gate_up"),
    (rf"{_MLP}\.{_GATE}", "mlp.gate"),
    (
        rf"{_MLP}\.(?:{_UP}|fc1|fc_in|c_fc|dense_h_to_4h|wi|lin1|linear1|intermediate_dense|net\.0\.proj|key)"
        r"|intermediate\.dense|fc1|linear1|lin1|pwconv1|ffn(?=\.(?:weight|bias)$)",
        "mlp.up",
    ),
    (
        rf"{_MLP}\.(?:{_DOWN}|fc2|fc_out|c_proj|dense_4h_to_h|Wo|lin2|linear2|output_dense|weights_out|net\.2|value)"
        r"|output\.dense|fc2|linear2|lin2|pwconv2|ffn_output",
        "mlp.down",
    ),
    (
        r"input_layernorm|input_norm|attention_norm|attn_norm|self_attn_layer_norm|ln_1|ln1|norm1|norm_1"
        r"|layer_norm1|layernorm_before|layer\.0\.layer_norm|norm",
        "norm.input",
    ),
    (
        r"(?:post_attention|pre_feedforward|post_feedforward|pre_mlp|post_mlp|pre_moe|post_moe|pre_ff)"
        r"_(?:layer)?norm(?:_\d)?"
        r"|post_self_attn_layernorm|ffn_norm|mlp_norm|final_layer_norm|ln_2|ln2|norm2|norm_2"
        r"|layer_norm2|layernorm_after|sa_layer_norm|output_layer_norm|full_layer_layer_norm"
        r"|layer\.[12]\.layer_norm|output\.LayerNorm",
        "norm.post",
    ),
    (r"(?:\w+\.)*(?:\w*(?:[nN]orm|NORM)\w*|ln_?\w|\w+_ln)", "norm"),
    (r"(?:\w+\.)*(?:conv\d?|conv_shortcut|dwconv|downsample\.\d)", "conv"),
)

# Outside the layers; whatever stands before the word is skipped.
OUTSIDE: Final = (
    (r"feature_projection|feature_extractor|encoder\.conv\d", "embed.features"),
    (r"embed_tokens|word_embeddings|wte|tok_embeddings|token_embedding|embed_in|shared", "embed"),
    (r"embeddings(?=\.weight$)", "embed"),
    (
        r"embed_positions|position_embeddings?|positional_embedding|wpe|pos_embed|rel_embeddings",
        "embed.position",
    ),
    (r"token_type_embeddings", "embed.type"),
    (r"patch_embed|patch_embeddings?", "embed.patch"),
    (r"cls_token|class_embedding|mask_token|register_tokens", "embed.class"),
    (
        r"embeddings\.(?:LayerNorm|layernorm|norm)|word_embeddings_layernorm|embed_layer_norm|layernorm_embedding"
        r"|pre_layrnorm|ln_pre",
        "norm.embed",
    ),
    (r"lm_head|embed_out|score|classifier|cls\.predictions\.(?:decoder|bias)|qa_outputs|head", "head"),
    (r"final_logits_bias", "head"),
    (r"cls\.predictions\.transform", "head.transform"),
    (r"pooler", "head.pooler"),
    (r"text_projection|visual_projection", "head.projection"),
    (
        r"norm|ln_f|norm_f|final_norm|final_layernorm|final_layer_norm|embedding_norm|layer_?norm|post_layernorm"
        r"|ln_out|ln_post|ln_final|conv_norm_out",
        "norm.final",
    ),
)

# Towers beside the language model, and layers behind its last: their numbers are no layer indices of it.
BESIDE: Final = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech|mtp|draft|projector|resampler)")

# A word ends at a dot, at the end, or before what quantizers and stacked experts append to a name.
_WORD_END: Final = r"(?=\.|$|_weight$|_bias|_blocks|_scales|_packed|_scale_inv)"

# What is numbered again inside a layer: a stage's blocks, a block's attentions.
_INNER: Final = re.compile(r"^(?:\w+\.)*?(?:\w*layers?|\w*blocks?|resnets|attentions)\.\d+\.")

_DEEPEST: Final = 4


def _compiled(table: Iterable[tuple[str, str]], start: str) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(rf"{start}(?:{words}){_WORD_END}"), kind) for words, kind in table]


_IN_LAYER = _compiled(IN_LAYER, "^")
_OUTSIDE = _compiled(OUTSIDE, r"^(?:[A-Za-z_]\w*\.)*?")


def kind_inside(rest: str) -> str:
    """Return the role of what stands behind a layer's number; `other` when its words say nothing known.

    A general word (`norm`, `conv`) gives way to a row that knows the words behind an inner number.
    """
    kind = _first(rest, _IN_LAYER)
    for _ in range(_DEEPEST):
        inner = _INNER.match(rest)
        if inner is None or kind not in ("other", "norm", "conv"):
            break
        rest = rest[inner.end() :]
        kind = _first(rest, _IN_LAYER)
    return kind


def kind_outside(name: str) -> str:
    """Return the role of a tensor that lies in no layer."""
    return "head" if name.startswith("proj_out.") else _first(name, _OUTSIDE)


def _first(text: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    return next((kind for pattern, kind in table if pattern.match(text)), "other")
