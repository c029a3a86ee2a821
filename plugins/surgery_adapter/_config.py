"""adapter_config.json of an adapter that was made of others: ranks as they came out, scales of 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surgery.errors import Finding, PlanError
from surgery.ops import Description, Made, Signature
from surgery_adapter._kinds import PREFIX
from surgery_adapter._pairs import Side, module_of, rank_in, side_of

Ranks = Callable[[Signature, Any], int]


def scales_of_one(ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return the part of a config that gives every module its rank and the scale 1."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(module): rank for module, rank in sorted(ranks.items()) if rank != common}
    return {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,  # with `rank_pattern` alone the scale would be alpha/rank instead of 1
        "use_rslora": False,
        "target_modules": sorted(ranks),
    }


def base_name(source: str) -> str:
    """Return a base's name as it may be published: a path by its last part only."""
    return Path(source).name if source.startswith((".", "/", "~")) else source


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
        **(scales_of_one(modules) if modules else {}),  # none: every factor has a finding of its own
        "base_model_name_or_path": base_name(base) if isinstance(base, str) else base,
        "inference_mode": True,
        "init_lora_weights": True,
        # modules are named in full; these would choose among them once more
        **dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules")),
    }
    return Description(config, config_file="adapter_config.json", stem="adapter_model", sidecars=False)


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
