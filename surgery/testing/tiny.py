"""Tiny Llama-like checkpoints: a few kilobytes that transformers loads like the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from surgery.tensors import STORED_FLOATS, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

EMBED: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"


def tiny_config(
    *,
    layers: int = 2,
    hidden: int = 16,
    intermediate: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 32,
    tied: bool = False,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Return the config.json of a tiny Llama; the values are those that transformers writes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
    }


def tiny_specs(**settings: Any) -> dict[str, TensorSpec]:
    """Return names, shapes and dtypes of the tensors that `tiny_config(**settings)` describes; no torch."""
    config = tiny_config(**settings)
    hidden, wide, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBED: (vocab, hidden)}
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes[HEAD] = (vocab, hidden)
    tag = STORED_FLOATS[config["torch_dtype"]]
    return {name: TensorSpec(name, shape, tag) for name, shape in shapes.items()}


def tiny_llama(*, seed: int = 0, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the config.json of a tiny Llama.

    Matrices are normal with standard deviation 0.05, norms near 1; the same `seed` gives the same values.
    `settings` are those of `tiny_config`: layers, hidden, intermediate, heads, kv_heads, vocab, tied, dtype.
    """
    import torch

    config = tiny_config(**settings)
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, config["torch_dtype"])
    tensors = {}
    for name, spec in tiny_specs(**settings).items():
        values = torch.randn(spec.shape, generator=generator) * 0.05
        tensors[name] = (values + 1 if len(spec.shape) == 1 else values).to(dtype)
    return tensors, config


def save_tiny(folder: Path | str, *, seed: int = 0, **settings: Any) -> Path:
    """Write a tiny Llama as model.safetensors and config.json into `folder`; return the folder."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, config = tiny_llama(seed=seed, **settings)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
