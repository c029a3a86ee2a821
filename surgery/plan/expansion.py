"""A step on its way to a virtual model: its inputs, and what it has made of their tensors so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from surgery.ops import BASE, Signature, Space, Split
from surgery.plan.companions import Companions
from surgery.plan.nodes import Node
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import TensorInfo, TensorSpec


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of one of the models that have it: the model's place in the step, its node and what it is."""

    index: int  # BASE for the base
    model: VirtualModel
    node: Node
    info: TensorInfo


@dataclass(slots=True)
class Expansion:
    """One step on its way to a virtual model; `changed` are the tensors that its op works on."""

    step: ResolvedStep
    split: Split
    base: VirtualModel | None
    models: tuple[VirtualModel, ...]
    problems: Problems
    seed: int
    companions: Companions
    nodes: dict[str, Node] = field(default_factory=dict)
    specs: dict[str, TensorSpec] = field(default_factory=dict)
    changed: dict[str, Signature] = field(default_factory=dict)

    @property
    def path(self) -> tuple[str | int, ...]:
        """Return the step's place in the recipe."""
        return ("steps", self.step.name)

    @property
    def donor(self) -> VirtualModel:
        """Return the model that gives names, config and tokenizer: the base, else the first as written."""
        first = (model for model in self.models if model.name == self.step.first)
        return self.base or next(first, self.models[0])

    @property
    def inputs(self) -> list[tuple[int, VirtualModel]]:
        """Return the models with their places in the step, the base first."""
        return ([(BASE, self.base)] if self.base else []) + list(enumerate(self.models))

    @property
    def whole(self) -> bool:
        """Return whether the inputs have all their layers: changes and adapters may lack some."""
        return all(model.space == Space.WEIGHT for _, model in self.inputs)

    def put(self, name: str, node: Node, spec: TensorSpec) -> None:
        """Give the result a tensor."""
        self.nodes[name] = node
        self.specs[name] = spec if spec.name == name else spec.with_(name=name)

    def copy(self, name: str, operand: Operand) -> None:
        """Pass a tensor on unchanged, or leave out what the op does not work on."""
        if self.step.op.rest == "copy":
            self.put(name, operand.node, operand.info.spec)

    def refuse(self, name: str, kind: str, what: str) -> None:
        """Note what is wrong with a tensor; those of one kind are told once."""
        self.problems.add_tensor(self.path, kind, what, name)
