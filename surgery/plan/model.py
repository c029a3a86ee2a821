"""The checked plan: outputs, their tensors and how each is computed. Nothing here changes once it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from surgery.checkpoint.base import Checkpoint
from surgery.errors import Finding
from surgery.ops import File, Relation
from surgery.plan.nodes import Node
from surgery.plan.places import Target
from surgery.plan.virtual import VirtualModel
from surgery.recipe.model import Recipe
from surgery.recipe.resolve_ops import ResolvedStep
from surgery.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to write: its name, shape and stored dtype, and how it is computed."""

    spec: TensorSpec
    node: Node


@dataclass(frozen=True, slots=True)
class Output:
    """A checkpoint to write. `folder` is None when nothing is to be written (`surgery.state_dict`).

    With a `target` the folder is where it is made before it is published.
    """

    name: str
    model: str
    folder: Path | None
    tensors: tuple[OutputTensor, ...]
    config: Mapping[str, Any]
    sidecars: Mapping[str, File]
    shard_size: int
    stem: str = "model"
    config_file: str = "config.json"
    relation: Relation | None = None
    library: str | None = None
    target: Target | None = None

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(tensor.spec.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do."""

    recipe: Recipe
    steps: Mapping[str, ResolvedStep]
    models: Mapping[str, VirtualModel]
    checkpoints: Mapping[str, Checkpoint]
    outputs: tuple[Output, ...]
    warnings: tuple[Finding, ...]

    def graph(self) -> nx.DiGraph[str]:
        """Return the steps as a graph: models, steps and outputs (`-> name`), edges in the direction of data."""
        graph = step_graph(self.steps, self.checkpoints)
        for output in self.outputs:
            graph.add_edge(output.model, f"-> {output.name}")
        return graph

    def close(self) -> None:
        """Close the source files."""
        for checkpoint in self.checkpoints.values():
            checkpoint.close()


def step_graph(steps: Mapping[str, ResolvedStep], models: Mapping[str, object]) -> nx.DiGraph[str]:
    """Return models and steps as a graph, edges from what is read to the step that reads it."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(models)
    for step in steps.values():
        graph.add_node(step.name)
        graph.add_edges_from((source, step.name) for source in reads(step))
    return graph


def reads(step: ResolvedStep) -> list[str]:
    """Return the names of the models and steps that a step reads, base first, each once."""
    return list(step.inputs)
