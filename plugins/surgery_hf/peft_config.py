"""What adapter_config.json says of an adapter; whatever would change the fold and is not known is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from surgery.checkpoint.strict_json import parse_object
from surgery.errors import CheckpointError, Finding, PlanError
from surgery.ops import Description
from surgery.recipe.regex import search_in
from surgery_hf.peft_kinds import KINDS, why_not
from surgery_hf.peft_module import Kind, words
from surgery_hf.peft_scales import LoraConfig, Pattern

CONFIG: Final = "adapter_config.json"
_MAX_CONFIG: Final = 10_000_000

# Keys that say how an adapter was trained, found or named, not what its weights mean.
_INDIFFERENT: Final = words(
    "peft_type peft_version task_type base_model_name_or_path revision auto_mapping inference_mode runtime_config "
    "target_modules exclude_modules layers_to_transform layers_pattern modules_to_save bias ensure_weight_tying"
)
_SCALED: Final = frozenset({"r", "alpha", "rank_pattern", "alpha_pattern"})
_LORA: Final = words(
    "lora_bias lora_dropout megatron_core loftq_config eva_config corda_config lora_ga_config velora_config "
    "qalora_group_size r lora_alpha rank_pattern alpha_pattern use_rslora use_dora fan_in_fan_out "
    "init_lora_weights"
)

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
class Config:
    """What an adapter_config.json says: its kind (None: LoRA), what that needs of it, and ranks and scales."""

    kind: Kind | None
    said: Mapping[str, Any]
    scales: LoraConfig


def as_adapter(config: Mapping[str, Any]) -> Description:
    """Return how an adapter that is written anew is packed."""
    names = {"config_file": CONFIG, "stem": "adapter_model"}
    return Description(config, **names, sidecars=False, relation="adapter", library="peft")


def read_config(folder: Path) -> Config:
    """Return the config of the adapter in a folder. Raises PlanError with everything that stands against folding it."""
    path = folder / CONFIG
    size = path.stat().st_size
    if size > _MAX_CONFIG:
        raise CheckpointError(f"{path}: has {size} bytes, at most {_MAX_CONFIG} are read; it is no config")
    said = parse_object(path.read_bytes(), str(path))
    name = said.get("peft_type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None and name != "LORA":
        raise PlanError(f"{path}: {why_not(name)}")
    problems = list(_lora_problems(said) if kind is None else _kind_problems(said, kind))
    if problems:
        raise PlanError([Finding(f"{path}: {problem}") for problem in problems])
    if kind is not None and not kind.scaled:
        return Config(kind, said, LoraConfig(1, 1.0))  # its formula asks for neither
    return Config(kind, said, _scales(said, "lora_alpha" if kind is None else "alpha"))


def _scales(said: Mapping[str, Any], alpha: str) -> LoraConfig:
    return LoraConfig(
        rank=said["r"],
        alpha=float(said[alpha]),
        ranks=tuple(Pattern(*entry) for entry in (said.get("rank_pattern") or {}).items()),
        alphas=tuple(Pattern(*entry) for entry in (said.get("alpha_pattern") or {}).items()),
        rank_stabilized=bool(said.get("use_rslora")),
        dora=bool(said.get("use_dora")),
        transposed=bool(said.get("fan_in_fan_out")),
    )


def _lora_problems(said: Mapping[str, Any]) -> Iterator[str]:
    yield from _refusals(said, _LORA, _REFUSED)
    start = said.get("init_lora_weights")
    if not any(start is plain or (isinstance(plain, str) and start == plain) for plain in _PLAIN_STARTS):
        yield (
            f"`init_lora_weights`: `{start}` changes the base before training, so that this is no change of the "
            "base as published; save it with peft's `path_initial_model_for_weight_conversion` first"
        )
    yield from _wrong(said, "lora_alpha")


def _kind_problems(said: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    known = kind.settings | (_SCALED if kind.scaled else frozenset())
    yield from _refusals(said, known, {**_REFUSED, **(kind.refused or {})})
    if kind.scaled:
        yield from _wrong(said, "alpha")


def _refusals(said: Mapping[str, Any], known: frozenset[str], refused: Mapping[str, str]) -> Iterator[str]:
    """Yield what the config asks for that cannot be folded."""
    for key, value in said.items():
        if key in refused and value:
            yield f"`{key}`: {refused[key]}"
        elif key not in known and key not in _INDIFFERENT and key not in refused and value:
            yield f"`{key}`: is not known here, it may change what the weights mean; merge it with peft"


def _wrong(config: Mapping[str, Any], alpha: str) -> Iterator[str]:
    """Yield numbers that are none."""
    if not _positive(config.get("r"), whole=True):
        yield f"`r` must be a whole number above 0, got {config.get('r')!r}"
    if not _positive(config.get(alpha)):
        yield f"`{alpha}` must be a number above 0, got {config.get(alpha)!r}"
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
