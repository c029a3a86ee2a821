"""Do layers of different models fit together? Configs must agree wherever a layer depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from surgery.errors import Finding, PlanError
from surgery.ops import ModelView

# What a layer of one model must have in common with a layer of the next: widths, heads, positions, norms,
# activations, multipliers. Values per layer (`layer_types`) are no settings: they travel with their layers.
_SETTINGS: Final = (
    "model_type hidden_size n_embd d_model intermediate_size n_inner moe_intermediate_size"
    " shared_expert_intermediate_size num_attention_heads n_head num_key_value_heads head_dim"
    " q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim"
    " num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok norm_topk_prob"
    " routed_scaling_factor scoring_func topk_method n_group topk_group"
    " partial_rotary_factor rotary_pct sliding_window position_embedding_type use_qk_norm"
    " rms_norm_eps layer_norm_eps layer_norm_epsilon norm_epsilon"
    " hidden_act hidden_activation activation_function attention_bias mlp_bias"
    " num_heads d_kv feed_forward_proj relative_attention_num_buckets relative_attention_max_distance"
    " encoder_attention_heads decoder_attention_heads"
    " residual_multiplier attention_multiplier query_pre_attn_scalar attn_logit_softcapping scale_depth"
    " quantization_config"
)
SETTINGS: Final = tuple(_SETTINGS.split())

# What a missing key means, where files that leave it out agree with files that write it.
_DEFAULTS: Final[dict[str, Any]] = {"attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0}

_TEXT_PARTS: Final = ("text_config", "llm_config", "language_config")


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that speaks of the language model: nested in multimodal ones."""
    for key in _TEXT_PARTS:
        if isinstance(config.get(key), Mapping):
            return config[key]  # type: ignore[no-any-return]
    return config


def check_settings(views: Sequence[ModelView]) -> None:
    """Raise PlanError with every setting in which a model differs from the first."""
    first = views[0]
    findings = [
        Finding(
            f"`{first.name}` and `{other.name}` differ at {key}: {a!r} and {b!r}; "
            "stitch models whose layers have the same settings"
        )
        for other in views[1:]
        for key, a, b in _differences(text_part(first.config), text_part(other.config))
    ]
    if findings:
        raise PlanError(findings)


def check_shapes(views: Sequence[ModelView]) -> None:
    """Raise PlanError where layers of two models have a tensor of the same name in different shapes."""
    first = _shapes(views[0])
    for other in views[1:]:
        theirs = _shapes(other)
        if not first.keys() & theirs.keys():
            a, b = min(first, default="none"), min(theirs, default="none")
            raise PlanError(
                f"`{views[0].name}` and `{other.name}` name their layers' tensors differently: {a} and {b}; "
                "stitch models of one architecture"
            )
        for name in sorted(first.keys() & theirs.keys()):
            if not first[name] & theirs[name]:
                raise PlanError(
                    f"`{views[0].name}` and `{other.name}` differ at {name}: {min(first[name])} and "
                    f"{min(theirs[name])}; stitch models of the same widths"
                )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    if not (a and b):  # one has no config.json: shapes have to do
        return []
    pairs = [(key, _value(a, key), _value(b, key)) for key in SETTINGS]
    rope_a, rope_b = _rope(a), _rope(b)
    pairs += [(key, rope_a.get(key), rope_b.get(key)) for key in sorted(rope_a.keys() | rope_b.keys())]
    return [(key, left, right) for key, left, right in pairs if left != right]


def _value(config: Mapping[str, Any], key: str) -> Any:
    value = config.get(key)
    if value is not None:
        return value
    heads = config.get("num_attention_heads")
    if key == "head_dim" and heads and config.get("hidden_size"):
        return config["hidden_size"] // heads
    if key == "num_key_value_heads":
        return heads
    return _DEFAULTS.get(key)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings in one spelling: transformers 5 writes `rope_parameters`, 4 two keys."""
    found = {"rope_theta": config.get("rope_theta"), **(config.get("rope_scaling") or {})}
    found |= config.get("rope_parameters") or {}
    kind = found.pop("type", None)
    found["rope_type"] = found.get("rope_type") or kind or "default"
    return {key: value for key, value in found.items() if value is not None}


def _shapes(view: ModelView) -> dict[str, set[tuple[int, ...]]]:
    """Return the shapes that each tensor of a layer has in this model, by its name in layer 0."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for name, tensor in view.tensors.items():
        if tensor.role.layer is not None:
            found.setdefault(view.rename_layer(name, 0), set()).add(tensor.spec.shape)
    return found
