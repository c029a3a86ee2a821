"""Virtual checkpoints: a named source, or what a step makes of others. Names, specs and nodes; no values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from surgery.architecture import Architecture
from surgery.checkpoint.base import Checkpoint
from surgery.ops import Space
from surgery.plan.nodes import Node, Source
from surgery.tensors import Role, TensorInfo, TensorSpec, depth_of

_LAYER = re.compile(r"(?<=\.)(layers|h|blocks|layer|block)\.(\d+)(?=\.)")


@dataclass(slots=True)
class VirtualModel:
    """A model that exists so far as its names, specs and expressions.

    `tied` maps a name that the model does not store to the tensor whose values it shares.
    `donor` is the checkpoint whose config.json and tokenizer describe the model. `stem`, `config_file` and `bare` (no
    tokenizer beside it) are what an op's `describe` says of its files.
    """

    name: str
    tensors: dict[str, TensorInfo]
    nodes: dict[str, Node]
    config: Mapping[str, Any]
    donor: Checkpoint
    architecture: Architecture
    layers: int
    space: Space = Space.WEIGHT
    tied: dict[str, str] = field(default_factory=dict)
    stem: str = "model"
    config_file: str = "config.json"
    bare: bool = False

    def node(self, name: str) -> Node | None:
        """Return how a tensor is computed, following tied names; None if the model has no such tensor."""
        return self.nodes.get(name) or self.nodes.get(self.tied.get(name, ""))

    def info(self, name: str) -> TensorInfo | None:
        """Return what a tensor is, following tied names; None if the model has no such tensor."""
        return self.tensors.get(name) or self.tensors.get(self.tied.get(name, ""))


def from_checkpoint(name: str, checkpoint: Checkpoint, architectures: Sequence[Architecture]) -> VirtualModel:
    """Return the model that a checkpoint holds."""
    architecture = choose(checkpoint.config, architectures)
    native = checkpoint.native
    specs = {n: spec.with_(dtype=native.get(n, spec.dtype)) for n, spec in checkpoint.tensors.items()}
    infos = annotate(specs, architecture)
    nodes: dict[str, Node] = {n: Source(checkpoint, spec) for n, spec in checkpoint.tensors.items()}
    masks = bool(specs) and all(spec.dtype == "BOOL" for spec in specs.values())
    tied = dict(checkpoint.aliases)
    if text_config(checkpoint.config).get("tie_word_embeddings"):
        tied |= {a: b for a, b in architecture.tied.items() if a not in nodes and b in nodes}
    return VirtualModel(
        name=name,
        tensors=infos,
        nodes=nodes,
        config=checkpoint.config,
        donor=checkpoint,
        architecture=architecture,
        layers=layer_count(infos),
        space=Space.MASK if masks else Space.WEIGHT,  # truth values are no weights
        tied={a: b for a, b in tied.items() if b in nodes},
    )


def annotate(specs: Mapping[str, TensorSpec], architecture: Architecture) -> dict[str, TensorInfo]:
    """Return what every tensor is: role from the architecture, depth from the number of layers found."""
    roles = {name: architecture.role_of(name) for name in specs}
    layers = 1 + max((role.layer for role in roles.values() if role.layer is not None), default=-1)
    return {
        name: TensorInfo(spec, roles[name], depth_of(roles[name], layers)) for name, spec in specs.items()
    }


def layer_count(infos: Mapping[str, TensorInfo]) -> int:
    """Return one more than the highest layer index; 0 without layers."""
    return 1 + max((info.role.layer for info in infos.values() if info.role.layer is not None), default=-1)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that speaks of the language model: nested in multimodal ones."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def choose(config: Mapping[str, Any], architectures: Sequence[Architecture]) -> Architecture:
    """Return the architecture that claims the config's model type, else the generic one."""
    model_type = config.get("model_type")
    nested = text_config(config).get("model_type")
    for architecture in architectures:
        if model_type in architecture.model_types or nested in architecture.model_types:
            return architecture
    return next((a for a in architectures if a.name == "generic"), PLAIN)


def _plain_role(name: str) -> Role:
    found = _LAYER.search(f".{name}")
    return Role(layer=int(found[2])) if found else Role()


def _plain_rename(name: str, layer: int) -> str:
    return _LAYER.sub(lambda found: f"{found[1]}.{layer}", f".{name}", count=1)[1:]


# What the core knows by itself: a number behind `layers.`, `h.` or `blocks.` is a layer. Plugins know more.
PLAIN = Architecture("plain", frozenset(), _plain_role, _plain_rename)


def renamed(model: VirtualModel, name: str, **changes: Any) -> VirtualModel:
    """Return a model under a step's name, with what changed."""
    return replace(model, name=name, **changes)
