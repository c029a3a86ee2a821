"""What the words in tensor names mean. One table for all schemes: they differ in what they call a layer.

A name such as `model.layers.3.mlp.experts.7.up_proj.weight` is cut into what stands before the layer, the
layer's index, the expert's index, and the rest with the expert's index replaced by `#`. The rest is looked up
in a table of regular expressions, once for each distinct rest: a model of 90,000 tensors has about fifty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from surgery.tensors import Role

_T5: Final = r"(?:layer\.\d\.)?"
_ATTENTION: Final = rf"{_T5}(?:self_attn|self_attention|attention|attn|SelfAttention)(?:\.self|\.attention)?"
_MLP: Final = rf"{_T5}(?:mlp|feed_forward|ffn|block_sparse_moe|moe|DenseReluDense)"
_EXPERTS: Final = rf"{_MLP}\.experts\.(?:\#\.|mlp\.)?"
_SHARED: Final = rf"{_MLP}\.shared_experts?\."
_GATE: Final = r"(?:gate_proj|w1|wi_0)"
_UP: Final = r"(?:up_proj|w3|wi_1)"
_DOWN: Final = r"(?:down_proj|w2|wo)"

# Inside a layer: the first row that matches the beginning of the rest, up to the end of a word, wins.
IN_LAYER: Final = (
    (rf"{_ATTENTION}\.(?:q_proj|query|wq|q_lin|q)", "attention.q"),
    (rf"{_ATTENTION}\.(?:k_proj|key|wk|k_lin|k)", "attention.k"),
    (rf"{_ATTENTION}\.(?:v_proj|value|wv|v_lin|v)", "attention.v"),
    (rf"{_ATTENTION}\.(?:o_proj|out_proj|output\.dense|dense|c_proj|wo|out_lin|o)", "attention.o"),
    (rf"{_ATTENTION}\.(?:qkv_proj|query_key_value|c_attn|Wqkv|W_pack|wqkv)", "attention.qkv"),
    (rf"{_ATTENTION}\.(?:q|k|q_a|kv_a|query|key)_(?:norm|layernorm|layer_norm)", "attention.norm"),
    # multi-head latent attention: queries and keys with values through a narrow space
    (rf"{_ATTENTION}\.q_a_proj", "attention.q_a"),
    (rf"{_ATTENTION}\.q_b_proj", "attention.q_b"),
    (rf"{_ATTENTION}\.kv_a_proj(?:_with_mqa)?", "attention.kv_a"),
    (rf"{_ATTENTION}\.kv_b_proj", "attention.kv_b"),
    (rf"{_ATTENTION}\.sinks", "attention.sinks"),
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
    (rf"{_MLP}\.gate_up_proj", "mlp.gate_up"),
    (rf"{_MLP}\.{_GATE}", "mlp.gate"),
    (rf"{_MLP}\.(?:{_UP}|fc1|fc_in|c_fc|dense_h_to_4h|wi)|intermediate\.dense|fc1", "mlp.up"),
    (rf"{_MLP}\.(?:{_DOWN}|fc2|fc_out|c_proj|dense_4h_to_h)|output\.dense|fc2", "mlp.down"),
    (
        r"input_layernorm|input_norm|attention_norm|attn_norm|self_attn_layer_norm|ln_1|ln1|norm1|norm_1",
        "norm.input",
    ),
    (
        r"(?:post_attention|pre_feedforward|post_feedforward|pre_mlp|post_mlp|pre_moe|post_moe)_(?:layer)?norm(?:_\d)?"
        r"|post_self_attn_layernorm|ffn_norm|mlp_norm|final_layer_norm|ln_2|ln2|norm2|norm_2"
        r"|attention\.output\.LayerNorm|output\.LayerNorm",
        "norm.post",
    ),
)

# Outside the layers; whatever stands before the word is skipped.
OUTSIDE: Final = (
    (r"embed_tokens|word_embeddings|wte|tok_embeddings|embed_in|shared", "embed"),
    (r"embed_positions|position_embeddings|wpe", "embed.position"),
    (r"token_type_embeddings", "embed.type"),
    (r"embeddings\.(?:LayerNorm|norm)|word_embeddings_layernorm|embed_layer_norm", "norm.embed"),
    (r"lm_head|embed_out|score|classifier|cls\.predictions\.(?:decoder|bias)|qa_outputs", "head"),
    (r"cls\.predictions\.transform", "head.transform"),
    (r"pooler", "head.pooler"),
    (r"norm|ln_f|norm_f|final_norm|final_layernorm|final_layer_norm|embedding_norm", "norm.final"),
)

# Towers beside the language model, and layers behind its last: their numbers are no layer indices of it.
_BESIDE: Final = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech|mtp|draft|projector|resampler)")

# A word ends at a dot, at the end, or before what quantizers and stacked experts append to a name.
_WORD_END: Final = r"(?=\.|$|_bias|_blocks|_scales|_packed|_scale_inv)"


def _compiled(table: Iterable[tuple[str, str]], start: str) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(rf"{start}(?:{words}){_WORD_END}"), kind) for words, kind in table]


_IN_LAYER = _compiled(IN_LAYER, "^")
_OUTSIDE = _compiled(OUTSIDE, r"^(?:[A-Za-z_]\w*\.)*?")


def _look_up(rest: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    return next((kind for pattern, kind in table if pattern.match(rest)), "other")


@dataclass(slots=True)
class Scheme:
    """Roles and layer indices of names in which `words` stand before a layer's number."""

    words: str
    _split: re.Pattern[str] = field(init=False)
    _kinds: dict[str, str] = field(default_factory=dict)
    _beside: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._split = re.compile(
            rf"^(?P<before>(?:[A-Za-z_]\w*\.)*?(?:{self.words})\.)(?P<layer>\d+)\."
            r"(?:(?P<container>[\w.]*?\bexperts\.)(?P<expert>\d+)\.)?(?P<rest>.+)$"
        )

    def role_of(self, name: str) -> Role:
        """Return what a tensor is for; `other` when its name says nothing known."""
        found = self._split.match(name)
        if found is None:
            kind = self._kinds.get(name)
            if kind is None:
                kind = "other" if _BESIDE.search(name) else _look_up(name, _OUTSIDE)
                self._kinds[name] = kind
            return Role(kind)
        before, layer, container, expert, rest = found.groups()
        beside = self._beside.get(before)
        if beside is None:
            beside = self._beside[before] = _BESIDE.search(before) is not None
        if beside:
            return Role()
        if container:
            rest = f"{container}#.{rest}"
        kind = self._kinds.get(rest)
        if kind is None:
            kind = self._kinds[rest] = _look_up(rest, _IN_LAYER)
        return Role(kind, int(layer), int(expert) if expert else None)

    def rename_layer(self, name: str, layer: int) -> str:
        """Return the tensor's name in another layer; a name outside the layers as it is."""
        found = self._split.match(name)
        if found is None:
            return name
        return f"{name[: found.start('layer')]}{layer}{name[found.end('layer') :]}"


def scheme(words: str) -> tuple[Callable[[str], Role], Callable[[str, int], str]]:
    """Return `role_of` and `rename_layer` for names whose layers stand behind one of `words`."""
    made = Scheme(words)
    return made.role_of, made.rename_layer
