"""What plugins tell of model types: which tensor is which layer and role. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from surgery.tensors import Role, TensorSpec


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a family of models calls its tensors: annotation only, never a list of what may exist.

    `role_of` maps a tensor's name to its role; `rename_layer` gives a tensor another layer index. `roles_of`, if given,
    looks at all tensors of a model at once: it knows what a name alone does not say (stacks, runs, shapes).
    """

    name: str
    model_types: frozenset[str]
    role_of: Callable[[str], Role] = field(repr=False)
    rename_layer: Callable[[str, int], str] = field(repr=False)
    # alias -> tensor that it shares its values with when config.json says `tie_word_embeddings`
    tied: Mapping[str, str] = field(default_factory=dict)
    roles_of: Callable[[Mapping[str, TensorSpec]], Mapping[str, Role]] | None = field(
        default=None, repr=False
    )

    def roles(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, Role]:
        """Return the role of every tensor of a model."""
        return self.roles_of(specs) if self.roles_of else {name: self.role_of(name) for name in specs}
