"""What made a tensor, and which tensor of a source it descends from: the base's, or the first model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surgery.checkpoint.base import Checkpoint
from surgery.plan.nodes import Agree, Apply, Emitted, Member, Node, Rows, Source, Stacked

COPIED = "copied"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A stretch of a source's tensor: `numel` elements from `start` on."""

    checkpoint: Checkpoint
    name: str
    start: int
    numel: int


def made_by(node: Node) -> tuple[str, str]:
    """Return the step and the op that made a tensor last; no step, and `copied`, for a source's own bytes."""
    while True:
        match node:
            case Apply():
                return node.step, node.op.name
            case Member():
                return node.group.step, node.group.op.name
            case Stacked():
                return node.step, node.op
            case Emitted():
                node = node.call
            case Rows():
                node = node.node
            case Agree():
                node = node.first
            case Source():
                return "", COPIED


def descended_from(node: Node) -> Ancestor | None:
    """Return the source's tensor that a tensor is compared with; None where shape or order of rows changed."""
    start, numel = 0, node.spec.numel
    while not isinstance(node, Source):
        match node:
            case Rows():
                start += node.start
                node = node.node
            case Agree():
                node = node.first
            case Emitted():
                node = _first(node.call)
                numel = node.spec.numel
            case Stacked():
                return None
            case Apply() | Member():
                below = _first(node if isinstance(node, Apply) else node.group.members[node.name])
                if below.spec.shape != node.spec.shape:
                    return None
                node = below
    return Ancestor(node.checkpoint, node.spec.name, start, numel)


def _first(call: Apply) -> Node:
    return call.models[0] if call.base is None else call.base


def name_of(node: Node, name: str) -> str:
    """Return the tensor that an output tensor stands for: of codes and scales the one they were made of."""
    return node.call.signature.name if isinstance(node, Emitted) else name


def lineage(node: Node, names: dict[int, str]) -> dict[str, Any]:
    """Return a tensor's step, op and ancestor as plain data. `names` are the models' by the id of their checkpoint."""
    step, op = made_by(node)
    found: dict[str, Any] = {"step": step, "op": op} if step else {"op": op}
    ancestor = descended_from(node)
    if ancestor is not None and id(ancestor.checkpoint) in names:
        found["from"] = {"model": names[id(ancestor.checkpoint)], "tensor": ancestor.name}
        if ancestor.start:
            found["from"]["start"] = ancestor.start
    return found
