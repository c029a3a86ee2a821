"""Roles by name. One table for all schemes (`words.py`): they differ in what they call a layer.

A name such as `model.layers.3.mlp.experts.7.up_proj.weight` is cut into what stands before the layer, the
layer's index, the expert's index, and the rest with the expert's index replaced by `#`. The rest is looked up
in a table of regular expressions, once for each distinct rest: a model of 90,000 tensors has about fifty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from surgery.tensors import Role, TensorSpec
from surgery_hf.words import BESIDE, kind_inside, kind_outside

_EXPERT: Final = r"(?:(?P<container>[\w.]*?\bexperts\.)(?P<expert>\d+)\.)?(?P<rest>.+)$"
_INSIDE: Final = re.compile(_EXPERT)


@dataclass(slots=True)
class Scheme:
    """Roles and layer indices of names in which `words` stand before a layer's number.

    `towers` says that what is called vision, audio and the like stands beside the model and has no roles of it.
    """

    words: str
    towers: bool = True
    _split: re.Pattern[str] = field(init=False)
    _kinds: dict[str, str] = field(default_factory=dict)
    _outside: dict[str, Role] = field(default_factory=dict)
    _beside: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._split = re.compile(
            rf"^(?P<before>(?:[A-Za-z_]\w*\.)*?(?:{self.words})\.)(?P<layer>\d+)\.{_EXPERT}"
        )

    def role_of(self, name: str) -> Role:
        """Return what a tensor is for; `other` when its name says nothing known."""
        return self._role(name, staged=False)

    def roles_of(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, Role]:
        """Return the roles of a model's tensors, with the stack that each layer belongs to."""
        return {name: self._role(name, staged=True) for name in specs}

    def _role(self, name: str, *, staged: bool) -> Role:
        found = self._split.match(name)
        if found is None:
            if name not in self._outside:
                self._outside[name] = Role("other" if self.beside(name) else kind_outside(name))
            return self._outside[name]
        before, layer, *inside = found.groups()
        if self.beside(before):
            return Role()
        return self._within(inside, int(layer), before[:-1] if staged else "")

    def role_within(self, rest: str, layer: int, stack: str) -> Role:
        """Return what a tensor of a layer is for, of which `rest` stands behind the layer's number."""
        found = _INSIDE.match(rest)
        return self._within(found.groups() if found else (None, None, rest), layer, stack)

    def _within(self, inside: Sequence[str | None], layer: int, stack: str) -> Role:
        container, expert, rest = inside
        words = f"{container}#.{rest}" if container else str(rest)
        kind = self._kinds.get(words)
        if kind is None:
            kind = self._kinds[words] = kind_inside(words)
        return Role(kind, layer, int(expert) if expert else None, stack)

    def beside(self, path: str) -> bool:
        """Return whether a path leads into a tower."""
        if path not in self._beside:
            self._beside[path] = self.towers and BESIDE.search(path) is not None
        return self._beside[path]

    def rename_layer(self, name: str, layer: int) -> str:
        """Return the tensor's name in another layer; a name outside the layers as it is."""
        found = self._split.match(name)
        if found is None:
            return name
        return f"{name[: found.start('layer')]}{layer}{name[found.end('layer') :]}"
