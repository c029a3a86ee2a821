"""config.json of a model made of other models' layers: counts, values per layer, rules by index.

Three kinds of keys speak of single layers:

    one entry per layer     `layer_types`           re-indexed: the entry travels with its layer
    lists of indices        `mlp_only_layers`       remapped to where the named layers went
    rules by index          `first_k_dense_replace` given a value that says of every layer what its source's
                                                    value said of it there; refused if there is none

A list that is as long as the model is deep, under a key that is not known here, is refused: it may hold one
entry per layer, and a wrong guess loads without a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from surgery.errors import Finding, PlanError
from surgery.ops import ModelView
from surgery_stitch._settings import text_part

Pick = tuple[str, int]  # a layer of the new model: (model's name, index of the layer there)

COUNTS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

_PER_LAYER: Final = (
    "layer_types mlp_layer_types indexer_types layers_block_type no_rope_layers block_types attention_layers"
    " layer_rope_theta num_attention_heads_per_layer num_key_value_heads_per_layer num_heads_per_layer"
    " activation_sparsity_pattern hybrid_override_pattern moe_layer_freq"
)
PER_LAYER: Final = frozenset(_PER_LAYER.split())

INDICES: Final = frozenset(
    {
        "mlp_only_layers",
        "cross_attention_layers",
        "moe_layers",
        "full_attn_idxs",
        "hybrid_layer_ids",
        "kv_source_layers",
        "target_layer_ids",
    }
)

# Lists that may be as long as the model is deep by chance.
_OTHER_LISTS: Final = (
    "architectures eos_token_id bos_token_id pad_token_id suppress_tokens begin_suppress_tokens bad_words_ids"
    " keys_to_ignore_at_inference image_grid_pinpoints mrope_section"
)
_NOT_PER_LAYER: Final = frozenset((*_OTHER_LISTS.split(), *COUNTS))

_ONE_OF_THEM: Final = "say which with `stack`, a word of its path, where the op has it"

Rule = Callable[[int, Any], object]


def _prefix(layer: int, value: Any) -> object:
    return layer < value


def _period(layer: int, value: Any) -> object:
    return layer % len(value) if isinstance(value, str) else layer % value if value else 0


# Each rule says which class a layer belongs to. A period is compared by its phase, which is stricter than
# what any model makes of it, and need not know whether the first or the last layer of a period is special.
RULES: Final[dict[str, Rule]] = {
    "first_k_dense_replace": _prefix,
    "max_window_layers": _prefix,
    "decoder_sparse_step": _period,
    "moe_layer_freq": _period,
    "full_attention_interval": _period,
    "sliding_window_pattern": _period,
    "no_rope_layer_interval": _period,
    "interleave_moe_layer_step": _period,
    "attn_layer_period": _period,
    "expert_layer_period": _period,
    "global_attn_every_n_layers": _period,
    "layer_group_size": _period,
}

# Overruled by `layer_types` where that is written out.
_ATTENTION_RULES: Final = frozenset(
    {"max_window_layers", "full_attention_interval", "sliding_window_pattern", "global_attn_every_n_layers"}
)


def layer_count(view: ModelView) -> int:
    """Return how many layers a model has; raise PlanError if config.json and tensors disagree.

    Layers behind the last one are multi-token-prediction blocks, if config.json says how many.
    """
    config = text_part(view.config)
    if config.get("is_encoder_decoder"):
        raise PlanError(f"`{view.name}` is an encoder with a decoder; {_ONE_OF_THEM}")
    if config.get("stage_names"):  # transformers' vision backbones: features by stage, which layers make up
        raise PlanError(
            f"config.json of `{view.name}` names its layers as stages; remove stage_names, out_features and "
            "out_indices, which a model without a head on them does not need"
        )
    stacks = sorted({info.role.stack for info in view.tensors.values() if info.role.layer is not None})
    if len(stacks) > 1:
        raise PlanError(f"`{view.name}` has layers in {', '.join(stacks)}; {_ONE_OF_THEM}")
    count = next((config[key] for key in COUNTS if isinstance(config.get(key), int)), None)
    if count is None:
        if view.config:
            raise PlanError(
                f"config.json of `{view.name}` has no {', '.join(COUNTS)}; add the number of layers"
            )
        count = view.layers
    extra = config.get("num_nextn_predict_layers") or 0
    if not count <= view.layers <= count + extra or view.layers == 0:
        raise PlanError(
            f"config.json of `{view.name}` says {count} layers, its tensors have {view.layers}; mend it"
        )
    return int(count)


def rewrite(views: Mapping[str, ModelView], picks: Sequence[Pick], donor: ModelView) -> dict[str, Any]:
    """Return the donor's config.json, rewritten for the layers `picks`; PlanError where it cannot be."""
    config = deepcopy(dict(donor.config))
    part: Any = text_part(config)
    if not config or _in_order(picks, donor):
        return config
    configs = {name: text_part(views[name].config) for name, _ in picks}
    for key in COUNTS:
        if key in part:
            part[key] = len(picks)
    keys = list(part) + [key for other in configs.values() for key in other if key not in part]
    findings: list[Finding] = []
    for key in dict.fromkeys(keys):
        try:
            _rewrite_key(key, part, configs, picks, views)
        except PlanError as error:
            findings += error.findings
    if findings:
        raise PlanError(findings)
    return config


def _in_order(picks: Sequence[Pick], donor: ModelView) -> bool:
    return list(picks) == [(donor.name, layer) for layer in range(layer_count(donor))]


def _rewrite_key(
    key: str,
    part: dict[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    picks: Sequence[Pick],
    views: Mapping[str, ModelView],
) -> None:
    """Put what `key` says of the new model into `part`."""
    values = {name: config.get(key) for name, config in configs.items()}
    if key in INDICES:
        if any(values.values()):
            part[key] = [new for new, (name, old) in enumerate(picks) if old in (values[name] or ())]
    elif key in PER_LAYER and any(isinstance(value, list | str) for value in values.values()):
        part[key] = _reindexed(key, values, picks, views)
    elif key in RULES and any(value is not None for value in values.values()):
        part[key] = _ruled(key, values, picks, idle=_idle(key, part, configs))
    elif key == "num_kv_shared_layers" and any(values.values()):
        raise PlanError(
            f"{key} of config.json: the last layers share keys and values; their order cannot change"
        )
    elif key not in _NOT_PER_LAYER:
        for name, value in values.items():
            _refuse_unknown(key, value, views[name])


def _reindexed(
    key: str, values: Mapping[str, Any], picks: Sequence[Pick], views: Mapping[str, ModelView]
) -> Any:
    for name, value in values.items():
        count = layer_count(views[name])
        if not isinstance(value, list | str) or len(value) != count:
            found = f"{len(value)} entries" if isinstance(value, list | str) else repr(value)
            raise PlanError(
                f"{key} in config.json of `{name}`: has {found} for {count} layers; mend config.json"
            )
    chosen = [values[name][layer] for name, layer in picks]
    return "".join(chosen) if isinstance(next(iter(values.values())), str) else chosen


def _idle(key: str, part: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a rule decides nothing: `layer_types` overrules it, or the window it is about is off."""
    if key == "max_window_layers" and not any(
        config.get("use_sliding_window") for config in configs.values()
    ):
        return True
    return key in _ATTENTION_RULES and bool(part.get("layer_types"))


def _ruled(key: str, values: Mapping[str, Any], picks: Sequence[Pick], *, idle: bool) -> Any:
    """Return a value of the rule that says of every layer what its source's value said of it."""
    rule = RULES[key]
    if idle:
        return len(picks) if rule is _prefix else next(v for v in values.values() if v is not None)
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise PlanError(f"{key}: config.json of `{missing[0]}` lacks it, others have it; write it there")
    wanted = [rule(layer, values[name]) for name, layer in picks]
    tries = list(dict.fromkeys(values.values())) + (list(range(len(picks) + 1)) if rule is _prefix else [])
    for value in tries:
        if [rule(new, value) for new in range(len(picks))] == wanted:
            return value
    given = " and ".join(dict.fromkeys(str(value) for value in values.values()))
    raise PlanError(
        f"{key} of config.json: no value keeps every layer what it was, got {given}; "
        "choose layers so that each stays in its place of the pattern, or write the pattern out per layer"
    )


def _refuse_unknown(key: str, value: Any, view: ModelView) -> None:
    if isinstance(value, list) and value and len(value) == layer_count(view):
        raise PlanError(
            f"{key} in config.json of `{view.name}`: unknown list, as long as there are layers; "
            "remove it or use a model without it"
        )
