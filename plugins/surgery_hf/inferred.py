"""Roles for model types that no table knows: words first, then numbered runs, then shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from surgery.tensors import Role, TensorSpec
from surgery_hf.roles import Scheme
from surgery_hf.runs import SHARE, member, stacks_in
from surgery_hf.shapes import told_by_shapes


@dataclass(frozen=True, slots=True)
class Inferred:
    """A scheme that looks at all tensors of a model where a name alone says too little.

    Towers stand beside a language model; where no embedding of words is, as in vision models, they are the model.
    """

    words: str
    _scheme: Scheme = field(init=False)
    _whole: Scheme = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_scheme", Scheme(self.words))
        object.__setattr__(self, "_whole", Scheme(self.words, towers=False))

    def role_of(self, name: str) -> Role:
        """Return what a tensor is for, by its name alone."""
        return self._scheme.role_of(name)

    def roles_of(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, Role]:
        """Return the roles of a model's tensors."""
        scheme, roles = self._scheme, self._with_runs(self._scheme, specs)
        words = any(role.kind == "embed" for role in roles.values())
        if not words and any(scheme.beside(name) for name in specs):
            scheme, roles = self._whole, self._with_runs(self._whole, specs)
        own = {name: role for name, role in roles.items() if not scheme.beside(name)}
        return roles | told_by_shapes(own, specs)

    def _with_runs(self, scheme: Scheme, specs: Mapping[str, TensorSpec]) -> dict[str, Role]:
        roles = dict(scheme.roles_of(specs))
        known = any(role.layer is not None for role in roles.values())
        free = [name for name, role in roles.items() if role.layer is None and not scheme.beside(name)]
        for name, place in stacks_in(free, specs, SHARE if known else 0.0).items():
            roles[name] = scheme.role_within(place.rest, place.index, place.path)
        return roles

    def rename_layer(self, name: str, layer: int) -> str:
        """Return the name of a tensor of a layer in another layer."""
        renamed = self._scheme.rename_layer(name, layer)
        place = member(name)
        if renamed != name or place is None or self._scheme.role_of(name).layer == layer:
            return renamed
        return f"{place.path}.{layer}.{place.rest}"
