"""Virtual checkpoints: a named source, or what a step makes of others. Names, specs and nodes; no values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from surgery.architecture import Architecture
from surgery.checkpoint.base import Checkpoint
from surgery.ops import Description, File, Relation, Space
from surgery.plan.nodes import Node, Source
from surgery.tensors import Role, TensorInfo, TensorSpec, depth_of

_LAYER = re.compile(r"(?<=\.)(layers|h|blocks|layer|block)\.(\d+)(?=\.)")


@dataclass(slots=True)
class VirtualModel:
    """A model that exists so far as its names, specs and expressions.

    `tied` maps a name that the model does not store to the tensor whose values it shares.
    `donor` is the checkpoint whose config.json and tokenizer describe the model, unless an op says what `files` stand
    beside it. `stem`, `config_file`, `bare` (no tokenizer beside it), `relation` and `library` are what an op's
    `describe` says.
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
    relation: Relation | None = None
    library: str | None = None
    files: Mapping[str, File] | None = None

    @property
    def sidecars(self) -> Mapping[str, File]:
        """Return the files that stand beside the model's weights: tokenizer, generation config, ..."""
        return self.donor.sidecars if self.files is None else self.files

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
    stem = _DIFFUSERS if "_diffusers_version" in checkpoint.config else "model"
    said = checkpoint.description or Description(checkpoint.config, stem=stem)
    masks = bool(specs) and all(spec.dtype == "BOOL" for spec in specs.values())
    tied = dict(checkpoint.aliases)
    if text_config(checkpoint.config).get("tie_word_embeddings"):
        tied |= _tied(checkpoint.config, architecture, infos)
    return VirtualModel(
        name=name,
        tensors=infos,
        nodes=nodes,
        config=checkpoint.config,
        donor=checkpoint,
        architecture=architecture,
        layers=layer_count(infos),
        space=Space.MASK if masks else checkpoint.space,  # truth values are no weights
        stem=said.stem,
        config_file=said.config_file,
        bare=not said.sidecars,
        relation=said.relation,
        library=said.library,
        tied={a: b for a, b in tied.items() if b in nodes},
    )


# The name that diffusers looks for; what it writes into config.json besides is `_diffusers_version`.
_DIFFUSERS = "diffusion_pytorch_model"
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def _tied(
    config: Mapping[str, Any], architecture: Architecture, infos: Mapping[str, TensorInfo]
) -> dict[str, str]:
    """Return the heads that are not stored, with their embeddings: those that the architecture names.

    Where it names none that is there, a model that generates has one, tied to its only embedding of words.
    """
    named = {a: b for a, b in architecture.tied.items() if a not in infos and b in infos}
    if named or not str((config.get("architectures") or [""])[0]).endswith(_GENERATES):
        return named
    embeddings = [name for name, info in infos.items() if info.role.kind == "embed"]
    headless = not any(info.role.kind == "head" and len(info.spec.shape) > 1 for info in infos.values())
    return dict.fromkeys(architecture.tied, embeddings[0]) if headless and len(embeddings) == 1 else {}


def annotate(specs: Mapping[str, TensorSpec], architecture: Architecture) -> dict[str, TensorInfo]:
    """Return what every tensor is: role from the architecture, depth from the layers found in its stack."""
    roles = architecture.roles(specs)
    layers: dict[str, int] = {}
    for role in roles.values():
        if role.layer is not None:
            layers[role.stack] = max(layers.get(role.stack, 0), role.layer + 1)
    return {
        name: TensorInfo(spec, roles[name], depth_of(roles[name], layers.get(roles[name].stack, 0)))
        for name, spec in specs.items()
    }


def layer_count(infos: Mapping[str, TensorInfo]) -> int:
    """Return one more than the highest layer index of any stack; 0 without layers."""
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
