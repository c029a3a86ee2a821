"""Which tensor of a checkpoint goes into which parameter of transformers' model.

Most have the same name. Others are renamed (`block_sparse_moe` to `mlp`) or fused with others (the experts of a layer
in one tensor), as transformers does when it loads a checkpoint: its own rules are used. Releases before 5 have none.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

_EXPERT: Final = re.compile(r"\bexperts\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter, and for one that holds several experts which of them."""

    target: str
    expert: int | None = None


class Places:
    """The parameters of a model and the tensors that each is made of.

    parameters  name -> what stands there without weights; those that share a tensor once
    shared      name -> all names of that parameter
    sources     name -> the checkpoint's tensors that it is made of, in order
    """

    def __init__(self, model: Any, names: Collection[str]) -> None:
        self.parameters, self.shared = _parameters(model)
        self._rules = _Rules(model)
        self.sources: dict[str, list[str]] = {}
        self._patterns: dict[str, str | None] = {}
        self._target: dict[str, str] = {}
        canonical = {name: first for first, names in self.shared.items() for name in names}
        for name in sorted(names, key=_natural):
            renamed, pattern = self._rules.target(name, canonical)
            if renamed in canonical:
                self.sources.setdefault(canonical[renamed], []).append(name)
                self._patterns[name] = pattern
                self._target[name] = canonical[renamed]
        for target, sources in self.sources.items():
            if self._patterns[sources[0]] is None:
                self.sources[target] = _stored_once(target, sources)

    def place(self, name: str) -> Place | None:
        """Return where a tensor of the checkpoint is; None if the model has no place for it."""
        target = self._target.get(name)
        if target is None or name not in self.sources[target]:
            return None
        if self._patterns[name] is None:
            return Place(target)
        expert = _EXPERT.search(name)
        return Place(target, int(expert[1])) if expert else None

    def joined(self, target: str, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return a parameter's value, made of the tensors that belong into it."""
        sources = self.sources[target]
        if self._patterns[sources[0]] is None:
            return values[sources[0]]
        return self._rules.joined(
            target, [(name, self._patterns[name] or "", values[name]) for name in sources]
        )


def _parameters(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, list[str]]]:
    """Return parameters and the buffers that checkpoints hold, and the names by which each is known."""
    stored = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in stored.items():
        names.setdefault(id(tensor), []).append(name)
    firsts = {known[0]: known for known in names.values()}
    return {name: stored[name] for name in firsts}, firsts


def _stored_once(target: str, sources: list[str]) -> list[str]:
    """Return the one tensor that a parameter is: of tied ones the one that has its name, else the first."""
    return [target] if target in sources else sources[:1]


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort numbers in names as numbers: experts are stacked in this order."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


class _Rules:
    """How transformers renames and fuses a checkpoint's tensors."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._base: str = model.base_model_prefix
        self._renamings: list[Any] = []
        self._converters: list[Any] = []
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightConverter, rename_source_key
        except ImportError:  # before release 5: names are those of the checkpoint
            return
        self._rename = rename_source_key
        for rule in get_model_conversion_mapping(model):
            (self._converters if isinstance(rule, WeightConverter) else self._renamings).append(rule)

    def target(self, name: str, known: Collection[str]) -> tuple[str, str | None]:
        """Return the name that a tensor gets, and the pattern of the rule that fuses it with others."""
        if name in known:
            return name, None
        if self._renamings or self._converters:
            renamed, pattern = self._rename(name, self._renamings, self._converters)
            if (full := self._prefixed(renamed, known)) in known:
                return full, pattern
        return self._prefixed(name, known), None

    def _prefixed(self, name: str, known: Collection[str]) -> str:
        """Return a name with or without the model's prefix: checkpoints of a base model lack it."""
        for variant in (name, f"{self._base}.{name}", name.removeprefix(f"{self._base}.")):
            if variant in known:
                return variant
        return name

    def joined(self, target: str, parts: list[tuple[str, str, torch.Tensor]]) -> torch.Tensor:
        rule = next(rule for rule in self._converters if parts[0][1] in rule.source_patterns)
        converter = copy.deepcopy(rule)
        for name, pattern, value in parts:
            converter.add_tensor(target, name, pattern, value)
        made = converter.convert(target, model=self._model, config=self._model.config)
        found: Any = made[target]
        joined: torch.Tensor = found[0] if isinstance(found, list) else found
        return joined
