"""Results that several candidates share: what lies below the first op that a hole changes, kept in memory.

A node whose digest an earlier candidate had too is computed by itself once, in the precision in which it is computed
with, and stands in later plans as a tensor in memory. Equal digests mean equal bytes, so that nothing changes but time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.companion import arranged
from surgery.ops import Split
from surgery.plan.model import OutputTensor
from surgery.plan.nodes import Apply, Digests, Node, Rows, Source, Stacked, inputs_of, sources, walk
from surgery.search.kept import Room
from surgery.tensors import TensorSpec, nbytes

if TYPE_CHECKING:
    import torch

Key = tuple[bytes, str]  # a node's digest, and the dtype tag in which it is computed with
Compute = Callable[[Sequence[OutputTensor]], dict[str, "torch.Tensor"]]


class Shared:
    """What candidates have had in common so far. Nodes of whole-model and group ops are left alone, and all below."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._seen: set[bytes] = set()
        self._kept: dict[Key, Source] = {}
        self._refused: set[Key] = set()

    def rewritten(
        self, tensors: Sequence[OutputTensor], nodes: Digests, compute: Compute
    ) -> list[OutputTensor]:
        """Return tensors that are computed from what is kept, where earlier candidates had it too.

        `compute` makes what is to be kept.
        """
        wanted: dict[Key, Node] = {}
        for tensor in tensors:
            tag = _tag(tensor.node)
            for node in _shared_below(tensor.node, lambda node: nodes.of(node) in self._seen):
                if _tag(node) == tag:  # alone it would be computed in less precision than here
                    wanted[nodes.of(node), tag] = node
        self._keep({key: node for key, node in wanted.items() if key not in self._kept}, compute)
        self._seen.update(nodes.of(n) for t in tensors for n in walk(t.node) if isinstance(n, Apply))
        return [replace(t, node=_replaced(t.node, self._for(_tag(t.node), nodes), {})) for t in tensors]

    def _for(self, tag: str, nodes: Digests) -> Callable[[Node], Source | None]:
        return lambda node: self._kept.get((nodes.of(node), tag)) if isinstance(node, Apply) else None

    def _keep(self, wanted: dict[Key, Node], compute: Compute) -> None:
        """Compute nodes and keep them, as long as there is room."""
        chosen: list[tuple[Key, OutputTensor]] = []
        for key, node in wanted.items():
            if key not in self._refused and self._room.take(nbytes(node.spec.numel, key[1])):
                spec = TensorSpec(f"shared.{len(self._kept) + len(chosen)}", node.spec.shape, key[1])
                chosen.append((key, OutputTensor(spec, node)))
            else:
                self._refused.add(key)
        made = compute([tensor for _, tensor in chosen]) if chosen else {}
        for key, tensor in chosen:
            name = tensor.spec.name
            self._kept[key] = Source(MemoryCheckpoint({name: made[name]}), tensor.spec)


def _tag(root: Node) -> str:
    """Return the dtype in which a tensor is computed: float64 if one takes part."""
    return "F64" if any(source.spec.dtype == "F64" for source in sources(root)) else "F32"


def _plain(node: Node) -> bool:
    """Return whether what a node reads may be replaced: not where other tensors' inputs count too."""
    if isinstance(node, Apply):
        return node.scope is None and node.calibration is None and node.split is not Split.GROUP
    return isinstance(node, Rows | Stacked)


def _shared_below(root: Node, seen: Callable[[Node], bool]) -> list[Node]:
    """Return the highest nodes below a root that are ops' results and were seen before."""
    found: dict[int, Node] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        for child in inputs_of(node) if _plain(node) else ():
            if isinstance(child, Apply) and not child.parts and seen(child):
                found[id(child)] = child
            else:
                stack.append(child)
    return list(found.values())


def _replaced(root: Node, kept: Callable[[Node], Source | None], made: dict[int, Node]) -> Node:
    """Return a root with nodes below it replaced; what does not change stays the same object."""
    if not _plain(root):
        return root
    if id(root) not in made:
        fresh = {id(c): kept(c) or _replaced(c, kept, made) for c in inputs_of(root)}
        made[id(root)] = (
            _with_inputs(root, fresh) if any(fresh[i] is not c for i, c in _pairs(root)) else root
        )
    return made[id(root)]


def _pairs(node: Node) -> list[tuple[int, Node]]:
    return [(id(child), child) for child in inputs_of(node)]


def _with_inputs(node: Node, fresh: dict[int, Node]) -> Node:
    if isinstance(node, Rows):
        return replace(node, node=fresh[id(node.node)])
    if isinstance(node, Stacked):
        return replace(node, nodes=tuple(fresh[id(child)] for child in node.nodes))
    assert isinstance(node, Apply)
    base = None if node.base is None else fresh[id(node.base)]
    models = tuple(fresh[id(model)] for model in node.models)
    companions = arranged(node.companions, [fresh[id(one)] for one in node.beside])
    return replace(node, models=models, base=base, companions=companions)
