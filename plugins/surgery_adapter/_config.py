"""adapter_config.json of an adapter that was made of others: ranks as they came out, scales of 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from surgery.checkpoint.origin import base_name
from surgery.errors import Finding, PlanError
from surgery.ops import Description, Made, Signature
from surgery_adapter._kinds import PREFIX
from surgery_adapter._pairs import Side, module_of, rank_in, side_of

_TASKS: Final = {
    "ForCausalLM": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}

Ranks = Callable[[Signature, Any], int]


def scales(ranks: Mapping[str, int], scale: float = 1) -> dict[str, Any]:
    """Return the part of a config that gives every module its rank, and all of them one scale alpha/rank."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(module): rank for module, rank in sorted(ranks.items()) if rank != common}
    return {
        "r": common,
        "lora_alpha": scale * common,
        "rank_pattern": others,
        # with `rank_pattern` alone the scale would be lora_alpha/rank
        "alpha_pattern": {module: scale * rank for module, rank in others.items()},
        "use_rslora": False,
        "target_modules": sorted(ranks),
    }


def fresh_config(
    ranks: Mapping[str, int], base: str | None, model: Mapping[str, Any], scale: float = 1
) -> dict[str, Any]:
    """Return the config of a plain LoRA of a base called `base`, whose own config is `model`."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "task_type": _task(model),
        "use_dora": False,
        **scales(ranks, scale),
    }


def described(made: Made, p: Any, rank_of: Ranks, *, pairs: bool = True) -> Description:
    """Return the adapter's config and file names. With `pairs` raises PlanError for pairs that were torn apart."""
    problems = _torn(made) if pairs else []
    if problems:
        raise PlanError([Finding(problem) for problem in problems])
    ranks = {name: rank_of(signature, p) for name, signature in made.changed.items()}
    ranks |= {name: rank_in(info.spec) for name, info in made.kept.items() if side_of(name)}
    base = made.config.get("base_model_name_or_path")
    modules = {module_of(name).removeprefix(PREFIX): rank for name, rank in ranks.items()}
    config = {
        **made.config,
        **(scales(modules) if modules else {}),  # none: every factor has a finding of its own
        "base_model_name_or_path": base_name(base) if isinstance(base, str) else base,
        "inference_mode": True,
        "init_lora_weights": True,
        # modules are named in full; these would choose among them once more
        **dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules")),
    }
    return as_adapter(config)


def as_adapter(config: Mapping[str, Any]) -> Description:
    """Return how an adapter is packed, as peft reads it."""
    names = {"config_file": "adapter_config.json", "stem": "adapter_model"}
    return Description(config, **names, sidecars=False, relation="adapter", library="peft")


def _torn(made: Made) -> list[str]:
    """Return findings about modules of whose factors one is changed otherwise than the other."""
    by_module: dict[str, dict[Side, Signature]] = {}
    for name, signature in made.changed.items():
        side = side_of(name)
        if side is not None:
            by_module.setdefault(module_of(name), {})[side] = signature
    for module, sides in by_module.items():
        if len(sides) == 1:
            return [f"works on one factor of {module} only; let `where:` select both, or neither"]
        if sides[Side.A].each != sides[Side.B].each:
            return [f"factors of {module} have different parameters; let selectors name whole modules"]
    return []


def _task(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures") or [""]
    return next((task for end, task in _TASKS.items() if str(names[0]).endswith(end)), None)
