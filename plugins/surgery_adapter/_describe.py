"""adapter_config.json, as peft reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from surgery.checkpoint.origin import base_name
from surgery.errors import Finding, PlanError
from surgery.ops import Description, Made
from surgery.targets import CONV1D
from surgery_adapter._config import as_adapter, fresh_config
from surgery_adapter._kinds import Extract, Kind, kind_of, module_of, rank_of

if TYPE_CHECKING:
    from surgery_adapter.init import Init


def describe(made: Made, p: Extract | Init, scale: float = 1) -> Description:
    """Return the adapter's config and file names. Raises PlanError for what peft would not load."""
    kinds = {name: kind_of(signature, p) for name, signature in made.changed.items()}
    ranks = {
        module_of(name): rank_of(made.changed[name], p)
        for name, kind in kinds.items()
        if kind in (Kind.LINEAR, Kind.EMBEDDING)
    }
    saved = sorted({module_of(name) for name, kind in kinds.items() if kind is Kind.WHOLE})
    problems = [*_problems(made, p, kinds, ranks), *_suffixes(made, saved)]
    if problems:
        raise PlanError([Finding(problem) for problem in problems])
    config = fresh_config(ranks, p.base_model or base_name(made.source), made.config, scale)
    config |= {
        "bias": "lora_only" if Kind.BIAS in kinds.values() else "none",
        "fan_in_fan_out": p.fan_in_fan_out,
        "modules_to_save": saved or None,
    }
    return as_adapter(config)


def _problems(
    made: Made, p: Extract | Init, kinds: Mapping[str, Kind], ranks: Mapping[str, int]
) -> list[str]:
    problems = []
    if not ranks:
        problems.append("gives factors to nothing: no matrix is left; see `targets` and `where`")
    kind = made.config.get("model_type")
    if kind in CONV1D and not p.fan_in_fan_out:
        problems.append(f"weights of `{kind}` are [in, out]; set `fan_in_fan_out: true`")
    lone = [name for name, kind in kinds.items() if kind is Kind.BIAS and module_of(name) not in ranks]
    if lone:
        problems.append(
            f"{lone[0]} is to be saved, its weight is left out; select both with `where:`, or neither"
        )
    tied = [name for name in kinds if made.changed[name].role.kind.partition(".")[0] in ("embed", "head")]
    if tied and made.config.get("tie_word_embeddings"):
        problems.append(
            f"{tied[0]} is embedding and head in one, peft would change one of them; leave it out with `where:`"
        )
    return problems


def _suffixes(made: Made, saved: list[str]) -> list[str]:
    """Return findings about modules that peft would take for saved ones: it looks at the ends of names alone."""
    modules = {module_of(name) for name in [*made.changed, *made.kept]} - set(saved)
    return [
        f"saves the module `{module}`, and peft takes `{other}` for it too; leave {module} out with `where:`"
        for module in saved
        for other in sorted(other for other in modules if other.endswith(module))[:1]
    ]
