"""Model types and the naming scheme that each follows. Annotation only: unknown tensors are still tensors."""

from __future__ import annotations

from typing import Final

from surgery.architecture import Architecture
from surgery_hf.inferred import Inferred
from surgery_hf.roles import Scheme

_DECODERS: Final = """
    llama mistral mistral3 ministral ministral3 qwen2 qwen3 qwen2_vl qwen2_5_vl qwen3_vl
    gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text phi phi3 phi4mm stablelm starcoder2
    olmo olmo2 olmo3 smollm3 granite cohere cohere2 glm glm4 exaone4 nemotron internlm2 internlm3
    seed_oss hunyuan_v1_dense arcee apertus helium ernie4_5 lfm2 minicpm minicpm3 baichuan persimmon
    mixtral qwen2_moe qwen3_moe qwen3_next qwen3_vl_moe olmoe granitemoe granitemoeshared
    deepseek deepseek_v2 deepseek_v3 kimi_k2 glm4_moe gpt_oss llama4 llama4_text phimoe
    minimax ernie4_5_moe hunyuan_v1_moe dots1 ling bailing_moe aria jetmoe
"""
DECODERS: Final = frozenset(_DECODERS.split())

BERTS: Final = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"})

GPT2S: Final = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "gptj", "codegen"})

# a text and a picture (or sound) model side by side, neither of them a tower of the other
PAIRS: Final = frozenset(
    {"clip", "siglip", "siglip2", "chinese_clip", "clipseg", "altclip", "clap", "owlvit"}
)

# what a model type alone says of its tied head; elsewhere it is `lm_head.weight`
WHISPERS: Final = frozenset({"whisper", "speech_to_text"})


def _named(name: str, types: frozenset[str], scheme: Scheme, **tied: str) -> Architecture:
    """Return an architecture that tells roles by names; `tied` maps heads to embeddings, both without `.weight`."""
    pairs = {f"{head}.weight": f"{embedding}.weight" for head, embedding in tied.items()}
    return Architecture(name, types, scheme.role_of, scheme.rename_layer, pairs, scheme.roles_of)


# in the order of what is likelier outside: `layers.3.block.0` is layer 3
_GENERIC = Inferred("layers|layer|h|blocks|block|resblocks")

ARCHITECTURES: Final = (
    _named(
        "decoder",
        DECODERS,
        Scheme("layers"),
        **{
            "lm_head": "model.embed_tokens",
            "language_model.lm_head": "language_model.model.embed_tokens",
        },
    ),
    _named("gpt2", GPT2S, Scheme("h"), lm_head="transformer.wte"),
    _named(
        "bert",
        BERTS,
        Scheme("layer"),
        **{"cls.predictions.decoder": "bert.embeddings.word_embeddings"},
    ),
    _named("pair", PAIRS, Scheme("layers", towers=False)),
    _named("whisper", WHISPERS, Scheme("layers"), proj_out="model.decoder.embed_tokens"),
    # for every model type that nobody claims
    Architecture(
        "generic",
        frozenset(),
        _GENERIC.role_of,
        _GENERIC.rename_layer,
        {"lm_head.weight": "model.embed_tokens.weight"},
        _GENERIC.roles_of,
    ),
)
