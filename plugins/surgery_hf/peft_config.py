"""What adapter_config.json says of a LoRA adapter; whatever would change the fold and is not known is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.strict_json import parse_object
from surgery.errors import CheckpointError, Finding, PlanError
from surgery.recipe.regex import search_in

CONFIG: Final = "adapter_config.json"
_MAX_CONFIG: Final = 10_000_000

# Keys that say how the adapter was trained, found or named, not what its weights mean.
_NAMES: Final = """
    peft_type peft_version task_type base_model_name_or_path revision auto_mapping inference_mode runtime_config
    target_modules exclude_modules layers_to_transform layers_pattern modules_to_save bias lora_bias lora_dropout
    megatron_core loftq_config eva_config corda_config lora_ga_config velora_config qalora_group_size
    ensure_weight_tying r lora_alpha rank_pattern alpha_pattern use_rslora use_dora fan_in_fan_out init_lora_weights
"""
_INDIFFERENT: Final = frozenset(_NAMES.split())

_REFUSED: Final[Mapping[str, str]] = {
    "layer_replication": "renumbers the layers; stack them in a step of its own and train on the result",
    "target_parameters": "fused experts are not folded; merge it with peft",
    "trainable_token_indices": "single rows of the embedding are not folded; merge it with peft",
    "megatron_config": "layers split by Megatron are not folded; merge it with peft",
    "alora_invocation_tokens": "works on some tokens only, which no weight can do; keep it as an adapter",
    "arrow_config": "is chosen token by token, which no weight can do; keep it as an adapter",
    "use_qalora": "pools the inputs, which is not folded; merge it with peft",
    "use_bdlora": "has blocks on the diagonal, which are not folded; merge it with peft",
    "kasa_config": "has another formula, which is not folded; merge it with peft",
    "monteclora_config": "has another formula, which is not folded; merge it with peft",
}

# Starting values that leave the base as it was. Others take a part out of the base before training.
_PLAIN_STARTS: Final = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of `rank_pattern` or `alpha_pattern`: a regular expression for the end of a module's name."""

    expression: str
    value: float

    def matches(self, module: str) -> bool:
        """Return whether the entry is about a module, as peft decides it."""
        return re.match(rf"(.*\.)?({self.expression})$", module) is not None


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What the fold needs of an adapter's config: ranks, scales, and how a module's weight is laid out."""

    rank: int
    alpha: float
    ranks: tuple[Pattern, ...] = ()
    alphas: tuple[Pattern, ...] = ()
    rank_stabilized: bool = False
    dora: bool = False
    transposed: bool = False  # `fan_in_fan_out`: weights are [in, out]

    def rank_of(self, module: str) -> int:
        """Return the rank that a module's factors must have."""
        return int(_first(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Return what B·A is multiplied by: α/r, or α/√r if it is rank-stabilized (Kalajdzievski 2023)."""
        rank = self.rank_of(module)
        return _first(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.rank_stabilized else rank)


def _first(patterns: tuple[Pattern, ...], module: str, default: float) -> float:
    return next((pattern.value for pattern in patterns if pattern.matches(module)), default)


def read_lora_config(folder: Path) -> LoraConfig:
    """Return the config of the adapter in a folder. Raises PlanError with everything that stands against folding it."""
    path = folder / CONFIG
    size = path.stat().st_size
    if size > _MAX_CONFIG:
        raise CheckpointError(f"{path}: has {size} bytes, at most {_MAX_CONFIG} are read; it is no config")
    config = parse_object(path.read_bytes(), str(path))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise PlanError(
            f"{path}: only `LORA` adapters are folded, got peft_type `{kind}`; merge it with peft"
        )
    problems = [*_refusals(config), *_wrong(config)]
    if problems:
        raise PlanError([Finding(f"{path}: {problem}") for problem in problems])
    return LoraConfig(
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        ranks=tuple(Pattern(*entry) for entry in (config.get("rank_pattern") or {}).items()),
        alphas=tuple(Pattern(*entry) for entry in (config.get("alpha_pattern") or {}).items()),
        rank_stabilized=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        transposed=bool(config.get("fan_in_fan_out")),
    )


def _refusals(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the config asks for that cannot be folded."""
    for key, value in config.items():
        if key in _REFUSED and value:
            yield f"`{key}`: {_REFUSED[key]}"
        elif key not in _INDIFFERENT and key not in _REFUSED and value:
            yield f"`{key}`: is not known here, it may change what the weights mean; merge it with peft"
    start = config.get("init_lora_weights")
    if not any(start is plain or (isinstance(plain, str) and start == plain) for plain in _PLAIN_STARTS):
        yield (
            f"`init_lora_weights`: `{start}` changes the base before training, so that this is no change of the "
            "base as published; save it with peft's `path_initial_model_for_weight_conversion` first"
        )


def _wrong(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield numbers that are none."""
    if not _positive(config.get("r"), whole=True):
        yield f"`r` must be a whole number above 0, got {config.get('r')!r}"
    if not _positive(config.get("lora_alpha")):
        yield f"`lora_alpha` must be a number above 0, got {config.get('lora_alpha')!r}"
    for key, whole in (("rank_pattern", True), ("alpha_pattern", False)):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            yield f"`{key}` must map module names to numbers, got {patterns!r}"
            continue
        for expression, value in patterns.items():
            if not _positive(value, whole=whole):
                kind = "a whole number" if whole else "a number"
                yield f"`{key}.{expression}` must be {kind} above 0, got {value!r}"
            try:
                search_in(expression)
            except ValueError as error:
                yield f"`{key}.{expression}` is no regular expression that can be used: {error}"


def _positive(value: Any, *, whole: bool = False) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < math.inf
