"""The names of tensors in a PEFT adapter: `base_model.model.` + module + what the tensor is to the module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_PREFIX: Final = "base_model.model."


class Part(StrEnum):
    """What an adapter's tensor is to a module, by the end of its name."""

    A = ".lora_A.weight"  # [r, in]
    B = ".lora_B.weight"  # [out, r]
    BIAS_OF_B = ".lora_B.bias"  # [out]
    EMBEDDING_A = ".lora_embedding_A"  # [r, vocabulary]
    EMBEDDING_B = ".lora_embedding_B"  # [dim, r]
    MAGNITUDE = ".lora_magnitude_vector"  # [out]
    OLD_MAGNITUDE = ".lora_magnitude_vector.weight"  # as peft once wrote it
    BASE_WEIGHT = ".base_layer.weight"  # the module's own weight or bias in full
    BASE_BIAS = ".base_layer.bias"
    WEIGHT = ".weight"
    BIAS = ".bias"


# Names of formulas and of parts that are not understood must not pass as a module's own weight.
_FOREIGN: Final = (
    *("lora_", "ia3_", "hada_", "lokr_", "vera_", "oft_", "boft_", "hra_", "shira_"),
    *("token_adapter", "base_layer", "modules_to_save", "original_module", "adapter_"),
)
_WHOLE: Final = (Part.BASE_WEIGHT, Part.BASE_BIAS, Part.WEIGHT, Part.BIAS)


@dataclass(slots=True)
class Keys:
    """An adapter's tensors by module and part; `unknown` are those whose names say nothing known."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def parse_keys(names: Iterable[str], ends: Sequence[str] = ()) -> Keys:
    """Return what the tensors of an adapter are. Every name is either in `modules` or in `unknown`.

    `ends` are what names of another kind than LoRA end with.
    """
    keys, known = Keys(), (*ends, *_WHOLE) if ends else tuple(Part)
    for name in names:
        part = next((part for part in known if name.endswith(part)), None)
        module = name[len(_PREFIX) : -len(part)] if part else ""
        foreign = any(word.startswith(_FOREIGN) for word in module.split("."))
        if part is None or foreign or not module or not name.startswith(_PREFIX):
            keys.unknown.append(name)
        else:
            keys.modules.setdefault(module, {})[part] = name
    return keys


def prefix_rule(targets: Iterable[str], names: Mapping[str, object]) -> tuple[str, str]:
    """Return which beginning of the adapter's names is replaced by which, so that all `targets` are in `names`.

    Whether names begin with the name of the model inside (`model.`, `transformer.`) differs between a base that was
    saved with a head and one without. ("", "") if the names agree, or if no such change makes all of them agree.
    """
    targets = list(targets)
    heads = {target.partition(".")[0] for target in targets}
    ours = dict.fromkeys(name.partition(".")[0] for name in names)
    rules = [
        ("", ""),
        *([(f"{heads.pop()}.", "")] if len(heads) == 1 else []),
        *(("", f"{o}.") for o in ours),
    ]
    for old, new in rules:
        if all(new + target.removeprefix(old) in names for target in targets):
            return old, new
    return "", ""
