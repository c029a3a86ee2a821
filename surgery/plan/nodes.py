"""How one tensor is computed: a small expression over tensors in files.

    Source    a tensor in a file                       Rows      some rows of another node
    Apply     an op on the same-named tensors          Stacked   any rows of several nodes, in any order
    Member    one tensor of a group's result           Agree     integer tensors that must be equal
    Emitted   one of several tensors that an op makes of one

Nodes are made while planning, hold no values, and are shared: what two outputs have in common is one node.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from surgery.checkpoint.base import Checkpoint
from surgery.companion import Beside, flat
from surgery.ops import File, Need, Op, Params, Part, Signature, Split
from surgery.plan.stretches import Stretches
from surgery.recipe.model import Calibration as Settings
from surgery.tensors import Role, TensorSpec

# Part of every digest: raise it when the engine's own arithmetic changes (decoding, rounding, folding).
NUMBERS_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A tensor in a file."""

    checkpoint: Checkpoint
    spec: TensorSpec  # under the name it has in the file


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of a tensor: a stretch of it."""

    node: Node
    start: int  # in elements
    spec: TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """Rows of several nodes in any order; `op` is the layout op that says so."""

    step: str
    op: str
    nodes: tuple[Node, ...]
    stretches: Stretches
    spec: TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class Agree:
    """A tensor on which no arithmetic is defined: the first, and all others must have the same bytes."""

    step: str
    first: Node
    others: tuple[Node, ...]
    spec: TensorSpec


@dataclass(slots=True, eq=False)
class Scope:
    """The tensors that a MODEL op gathers from together: all of a step, or what its op pools."""

    step: str
    members: list[Apply] = field(default_factory=list)

    @property
    def numel(self) -> int:
        """Return the elements of all members."""
        return sum(member.spec.numel for member in self.members)


@dataclass(slots=True, eq=False)
class Calibration:
    """Where the statistics of a step's op come from: activations of its input model on some text.

    `settings` is what the recipe says, `texts` are its files; `nodes` are all tensors of the model, `roles` what they
    are, `config` and `sidecars` what else is needed to run it; `members` are the op's calls, by the tensor that they
    change. Of `needs` the statistics are; `changes` says whether blocks read what the op makes of those before them.
    """

    step: str
    settings: Settings
    texts: tuple[Path, ...]
    text_digest: bytes
    config: Mapping[str, Any]
    sidecars: Mapping[str, File]
    nodes: Mapping[str, Node]
    roles: Mapping[str, Role]
    needs: tuple[Need, ...] = ()
    changes: bool = True
    members: dict[str, Apply] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class PromptRun:
    """Where hidden states come from: a model that reads prompts, each by itself.

    `nodes`, `roles` and `config` are as in a Calibration; `layers` says before which layer each call looks, by the
    tensor that it makes. Nothing is changed on the way: there are no `members`.
    """

    step: str
    prompts: tuple[tuple[int, ...], ...]
    config: Mapping[str, Any]
    nodes: Mapping[str, Node]
    roles: Mapping[str, Role]
    layers: dict[str, int] = field(default_factory=dict)
    members: Mapping[str, Apply] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """An op on a tensor of some models; `signature.models` and `models` run in parallel, so do their companions.

    Of a call that emits `parts`, `spec` is only the shape that its work is cut by.
    """

    step: str
    op: Op
    split: Split
    params: Params
    signature: Signature
    models: tuple[Node, ...]
    base: Node | None
    spec: TensorSpec
    seed: int
    scope: Scope | None = None
    calibration: Activations | None = None
    parts: tuple[Part, ...] = ()
    companions: Beside[Node] = field(default_factory=dict)

    @property
    def beside(self) -> tuple[Node, ...]:
        """Return the companions that are there: the last of the inputs."""
        return flat(self.companions)

    @property
    def row_step(self) -> int:
        """Return the number of rows whose multiples a call that emits may be cut at."""
        return math.lcm(*(part.rows for part in self.parts if part.rows), 1)


@dataclass(slots=True, eq=False)
class GroupCall:
    """A GROUP op on the members of one group, by name."""

    step: str
    op: Op
    params: Params
    seed: int
    members: dict[str, Apply]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One tensor of a group's result."""

    group: GroupCall
    name: str
    spec: TensorSpec


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """One of the tensors that a call emits, as it is stored: nothing is computed with it any more."""

    call: Apply
    spec: TensorSpec


Node = Source | Rows | Stacked | Agree | Apply | Member | Emitted
Activations = Calibration | PromptRun


def inputs_of(node: Node) -> tuple[Node, ...]:
    """Return the nodes that a node reads."""
    match node:
        case Apply():
            return (*weights_of(node), *node.beside) if node.companions else weights_of(node)
        case Rows():
            return (node.node,)
        case Stacked():
            return node.nodes
        case Emitted():
            return (node.call,)
        case Agree():
            return (node.first, *node.others)
        case Member():
            return tuple(i for member in node.group.members.values() for i in inputs_of(member))
        case Source():
            return ()


def weights_of(node: Node) -> tuple[Node, ...]:
    """Return the nodes that a node reads, without what stands beside models: what its result descends from."""
    if isinstance(node, Apply):
        return node.models if node.base is None else (node.base, *node.models)
    return inputs_of(node)


def below_rows(node: Node) -> tuple[Node, int]:
    """Return what a node is rows of, or the node itself, and how many of its elements are skipped."""
    skipped = 0
    while isinstance(node, Rows):
        skipped += node.start
        node = node.node
    return node, skipped


def walk(*roots: Node, below: Callable[[Node], tuple[Node, ...]] = inputs_of) -> Iterator[Node]:
    """Yield every node below `roots` once, inputs before what reads them."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(below(node)))


def sources(*roots: Node) -> list[Source]:
    """Return the tensors in files that `roots` are computed from."""
    return [node for node in walk(*roots) if isinstance(node, Source)]


class Digests:
    """Digests of nodes: equal digests mean equal bytes. xxh3-128 over op, version, parameters and inputs."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}
        self._keep: list[object] = []  # ids are only unique while the objects live
        self._params: dict[int, str] = {}
        self._scopes: dict[int, bytes] = {}

    def of(self, root: Node) -> bytes:
        """Return the digest of what `root` computes, before rounding to an output's dtype."""
        for node in walk(root):
            if id(node) not in self._known:
                self._known[id(node)] = self._digest(node)
                self._keep.append(node)
        return self._known[id(root)]

    def _digest(self, node: Node) -> bytes:
        match node:
            case Source():
                return _hash(b"source", node.checkpoint.identity(node.spec.name))
            case Rows():
                return _hash(b"rows", node.start, node.spec.shape, self._known[id(node.node)])
            case Stacked():
                below = (self._known[id(child)] for child in node.nodes)
                return _hash(b"stacked", node.stretches.identity(), node.spec.shape, node.spec.dtype, *below)
            case Agree():
                return _hash(b"agree", *(self._known[id(child)] for child in inputs_of(node)))
            case Member():
                calls = [_hash(name, self._apply(member)) for name, member in node.group.members.items()]
                return _hash(b"member", node.name, *calls)
            case Emitted():
                return _hash(b"emitted", node.spec.name, self._known[id(node.call)])
            case Apply():
                context = self._scope(node.scope), self._calibration(node.calibration)
                return _hash(b"apply", self._apply(node), *context)

    def _apply(self, node: Apply) -> bytes:
        each = (self._json(params) for params in node.signature.each)
        below = (self._known[id(child)] for child in inputs_of(node))
        base = node.base is not None
        head: tuple[object, ...] = (
            NUMBERS_VERSION,
            node.op.name,
            node.op.version,
            self._json(node.params),
            node.seed,
            base,
        )
        if node.companions:
            head = (*head, beside(node))
        return _hash(*head, node.signature.name, node.signature.places, *each, *below)

    def _scope(self, scope: Scope | None) -> bytes:
        if scope is None:
            return b""
        if id(scope) not in self._scopes:
            for member in scope.members:
                for node in walk(*inputs_of(member)):
                    self._known.setdefault(id(node), self._digest(node))
            self._scopes[id(scope)] = _hash(*(self._apply(member) for member in scope.members))
            self._keep.append(scope)
        return self._scopes[id(scope)]

    def _calibration(self, calibration: Activations | None) -> bytes:
        """Return the digest of all that the statistics depend on: text, model, and what earlier blocks become."""
        if calibration is None:
            return b""
        if id(calibration) not in self._scopes:
            model = [_hash(name, self.of(node)) for name, node in sorted(calibration.nodes.items())]
            calls = [self._apply(member) for _, member in sorted(calibration.members.items())]
            config = json.dumps(calibration.config, sort_keys=True, default=str)
            read = _read(calibration)
            self._scopes[id(calibration)] = _hash(*read, config, *model, *calls)
            self._keep.append(calibration)
        return self._scopes[id(calibration)]

    def calibration(self, calibration: Activations) -> bytes:
        """Return the digest of a calibration's statistics."""
        return self._calibration(calibration)

    def _json(self, params: Params) -> str:
        if id(params) not in self._params:
            self._params[id(params)] = json.dumps(params.model_dump(mode="json"), sort_keys=True)
            self._keep.append(params)
        return self._params[id(params)]


def beside(node: Apply) -> str:
    """Return which of a call's models have which companions: inputs alone do not tell."""
    return repr({name: [one is not None for one in row] for name, row in node.companions.items()})


def _read(calibration: Activations) -> tuple[object, ...]:
    """Return what tells apart what models read: text and how it is cut, or prompts and where they are looked at."""
    if isinstance(calibration, PromptRun):
        return b"prompts", calibration.prompts, sorted(calibration.layers.items())
    return calibration.settings.model_dump_json(exclude={"text"}), calibration.text_digest


def _hash(*parts: object) -> bytes:
    """Hash parts so that no two lists of parts give the same input."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.digest()
