"""What an op is told of a call before a value is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel, ConfigDict

from surgery.companion import Beside
from surgery.tensors import Role, TensorSpec

BASE: Final = -1  # stands for the base where models are counted 0, 1, 2, ...


class Params(BaseModel):
    """An op's parameters; unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class NoParams(Params):
    """Parameters of an op that has none."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What is known of a call before a value is read. Models that lack the tensor are left out of `models`."""

    name: str
    models: tuple[TensorSpec, ...]
    base: TensorSpec | None
    each: tuple[Params, ...]  # the parameters of each model in `models`, numbers for this tensor filled in
    role: Role
    numel: int  # elements of the tensor; of all that a MODEL op gathers from together
    places: tuple[int, ...] = ()  # where each of `models` stands among the step's; empty: all have the tensor
    # what stands beside each of `models`, by name
    companions: Beside[TensorSpec] = field(default_factory=dict, hash=False)

    def place(self, index: int) -> int:
        """Return where `models[index]` stands among the step's models, those that lack the tensor counted too."""
        return self.places[index] if self.places else index

    @property
    def first(self) -> TensorSpec:
        """Return the base's spec, or the first model's."""
        return self.base or self.models[0]
