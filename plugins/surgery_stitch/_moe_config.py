"""config.json of a mixture of experts, rewritten from that of the dense model that gives its attention."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from surgery.errors import Finding, PlanError
from surgery.ops import ModelView
from surgery_stitch._moe_families import Family

# What a dense config.json means where it is silent: the mixture's own defaults are others (Mixtral: 8 key-value
# heads, a rotary base of a million).
_DEFAULTS: Final[Mapping[str, Any]] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_DEFAULTS_OF: Final[Mapping[str, Mapping[str, Any]]] = {
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sliding_window": 4096,
    },
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "qwen3": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
}

# Keys of dense models that mean nothing in a mixture, or something else.
_DROPPED: Final = [
    "mlp_bias",
    "pretraining_tp",
    "layer_types",
    "max_window_layers",
    "auto_map",
    "_name_or_path",
    "use_sliding_window",
]


def mixture_config(
    family: Family, base: ModelView, experts: int, per_token: int, shared: int
) -> dict[str, Any]:
    """Return the config.json of a mixture. Raises PlanError for settings of the base that it cannot have."""
    dense = dict(base.config)
    kind = str(dense["model_type"])
    config = {**_DEFAULTS, **_DEFAULTS_OF[kind], **deepcopy(dense)}
    _check(family, base, config)
    for key in _DROPPED:
        config.pop(key, None)
    if family.name != "qwen3_moe":
        config.pop("attention_bias", None)
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config["num_attention_heads"]
    if not any(config.get(key) for key in ("rope_theta", "rope_parameters")):
        config["rope_theta"] = 10000.0
    if family.name != "mixtral":
        config |= {"moe_intermediate_size": config["intermediate_size"], "sliding_window": None}
    if family.name == "qwen2_moe":
        config["shared_expert_intermediate_size"] = config["intermediate_size"]
    if family.name == "deepseek":
        config["n_shared_experts"] = shared or None
    return {
        **config,
        **deepcopy(dict(family.settings)),
        "architectures": [family.architecture],
        "model_type": family.name,
        family.counts: experts,
        "num_experts_per_tok": per_token,
    }


def _check(family: Family, base: ModelView, config: Mapping[str, Any]) -> None:
    """Refuse settings that would be lost."""
    findings = []
    quantized = next((key for key in ("quantization_config", "compression_config") if config.get(key)), None)
    if quantized:
        findings.append(
            Finding(f"`{base.name}` is quantized ({quantized}); make the mixture of models that are not")
        )
    window = config.get("sliding_window")
    if config["model_type"] == "mistral":
        if window is not None and family.name != "mixtral":
            findings.append(
                Finding(
                    f"`{base.name}` attends to {window} tokens only, which `layout: {family.name}` cannot; "
                    "write `layout: mixtral`, or `sliding_window: null` in its config.json"
                )
            )
    elif config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        findings.append(
            Finding(
                f"`{base.name}` has layers with a sliding window, which `layout: {family.name}` cannot have; "
                "write `use_sliding_window: false` in its config.json if its texts are short"
            )
        )
    if findings:
        raise PlanError(findings)
