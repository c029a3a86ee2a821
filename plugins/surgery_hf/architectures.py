"""Model types and the naming scheme that each follows. Annotation only: unknown tensors are still tensors."""

from __future__ import annotations

from typing import Final

from surgery.architecture import Architecture
from surgery_hf.roles import scheme

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

_DECODER = scheme("layers")
_GPT2 = scheme("h")
_BERT = scheme("layer")
# in the order of what is likelier outside: `layers.3.block.0` is layer 3
_GENERIC = scheme("layers|layer|h|blocks|block")

ARCHITECTURES: Final = (
    Architecture(
        "decoder", DECODERS, _DECODER[0], _DECODER[1], tied={"lm_head.weight": "model.embed_tokens.weight"}
    ),
    Architecture("gpt2", GPT2S, _GPT2[0], _GPT2[1], tied={"lm_head.weight": "transformer.wte.weight"}),
    Architecture(
        "bert",
        BERTS,
        _BERT[0],
        _BERT[1],
        tied={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
    ),
    # for every model type that nobody claims
    Architecture("generic", frozenset(), *_GENERIC, tied={"lm_head.weight": "model.embed_tokens.weight"}),
)
