"""Jobs: the work behind one output tensor, or behind several that cannot be computed apart.

Output tensors belong to one job when they are members of one group, or when several outputs read the same tensor
of a file: then it is read once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from surgery.ops import BLOCK, Split
from surgery.plan.model import Output, OutputTensor
from surgery.plan.nodes import Apply, Emitted, Member, Node, Rows, Source, Stacked, inputs_of, walk
from surgery.tensors import nbytes

# Elements of a gather that one worker folds before its total joins the others': part of the numbers, like BLOCK.
GATHER_SPAN = 32 * BLOCK
# Elements computed at a time: small enough for the caches, large enough to hide what a call into torch costs.
CHUNK = 2 * BLOCK
# ... and what is taken when memory is ample: fewer calls, so that workers wait less for the interpreter's lock.
LARGE_CHUNK = 4 * BLOCK
# Chunks begin at multiples of this many elements: torch computes what is left over after the last full vector by
# other instructions, and then only the end of a tensor is left over, whatever the chunk size.
ALIGNED = 64
# What the threshold search of one model may hold, and the arithmetic of a chunk besides its buffers.
STATE_BYTES = 12 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A tensor to write, and the output it belongs to."""

    output: int
    tensor: OutputTensor


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Targets computed together.

    chunk     elements that are computed at a time
    working   bytes that a worker needs for a chunk
    held      bytes held from the job's start to its end: whole tensors and what gathers find
    gathered  bytes of what gathers over the whole model find, which jobs share
    reads     bytes read from files
    """

    targets: tuple[Target, ...]
    chunk: int
    working: int
    held: int
    gathered: int
    reads: int

    @property
    def writes(self) -> int:
        """Return the bytes that the job writes."""
        return sum(target.tensor.spec.nbytes for target in self.targets)

    @property
    def roots(self) -> list[Node]:
        """Return the nodes to compute, each once."""
        return list({id(target.tensor.node): target.tensor.node for target in self.targets}.values())


def make_jobs(outputs: Sequence[Output], chunk: int) -> list[Job]:
    """Return the jobs of all outputs, in the order of the first output's tensors."""
    targets = [Target(i, tensor) for i, output in enumerate(outputs) for tensor in output.tensors]
    return [_job(group, chunk) for group in _together(targets, several=len(outputs) > 1)]


def _together(targets: Sequence[Target], *, several: bool) -> list[list[Target]]:
    """Collect targets that share a group, or a tensor of a file when there are several outputs."""
    owner: dict[object, int] = {}
    parent = list(range(len(targets)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, target in enumerate(targets):
        for key in _keys(target, several=several):
            first = owner.setdefault(key, i)
            a, b = sorted((root(first), root(i)))
            parent[b] = a
    groups: dict[int, list[Target]] = {}
    for i, target in enumerate(targets):
        groups.setdefault(root(i), []).append(target)
    return list(groups.values())


def _keys(target: Target, *, several: bool) -> Iterable[object]:
    for node in walk(target.tensor.node):
        if isinstance(node, Member):
            yield id(node.group)
        elif isinstance(node, Emitted):
            yield id(node.call)
        elif several and isinstance(node, Source):
            yield id(node.checkpoint), node.spec.name, target.tensor.spec.numel


def _job(targets: Sequence[Target], chunk: int) -> Job:
    nodes = list(walk(*(target.tensor.node for target in targets)))
    calls = [node for node in nodes if isinstance(node, Apply)]
    rows = [call.op.row(call.spec) * call.row_step for call in calls if call.split is Split.ROW or call.parts]
    size = -(-max([chunk, *rows]) // ALIGNED) * ALIGNED
    numel = max(node.spec.numel for node in nodes)
    # a ROW op is given the rows that a chunk begins and ends in as a whole
    seen = min(size + 2 * max(rows, default=0), max(numel, 1))
    return Job(
        targets=tuple(targets),
        chunk=size,
        working=_working(nodes, seen, len(targets)),
        held=held_bytes(nodes),
        gathered=max((_state(node) for node in nodes if isinstance(node, Apply) and node.scope), default=0),
        reads=_reads(targets, nodes),
    )


def _working(nodes: Sequence[Node], chunk: int, roots: int) -> int:
    """Return the bytes of one worker's buffers: a value for each node, the ops' scratch, raw bytes, temporaries."""
    values = sum(not isinstance(node, Rows) for node in nodes)
    scratch = sum(2 + node.op.buffers for node in nodes if isinstance(node, Apply))
    temporaries = 4  # masks, draws and encoded bytes
    # what rows are taken from has buffers of its own: bytes of files, and those of an evaluator for what is computed
    times = 2 if any(isinstance(node, Stacked) for node in nodes) else 1
    return (times * (values + scratch) + temporaries + roots) * chunk * _width(nodes)


def _width(nodes: Iterable[Node]) -> int:
    """Return the bytes of an element while it is computed with."""
    return 8 if any(isinstance(node, Source) and node.spec.dtype == "F64" for node in nodes) else 4


def held_bytes(nodes: Sequence[Node]) -> int:
    """Return the bytes that are held to compute nodes: whole tensors, and what gathers over a tensor find."""
    held = 0
    for node in nodes:
        if isinstance(node, Member):
            held += _width(walk(node)) * node.spec.numel
            if node.name == next(iter(node.group.members)):
                held += sum(_whole(member) for member in node.group.members.values())
        elif isinstance(node, Apply) and node.split is Split.TENSOR:
            held += _whole(node)
        elif isinstance(node, Apply) and node.split is Split.REDUCE:
            held += _state(node)
    return held


def _whole(node: Apply) -> int:
    """Return the bytes of a whole-tensor call: inputs and result, and the op's temporaries."""
    width = _width(walk(node))
    inputs = sum(width * child.spec.numel for child in inputs_of(node))
    workspace = node.op.workspace(node.signature, node.params) if node.op.workspace else 3 * inputs
    return inputs + workspace + width * node.spec.numel


def _state(node: Apply) -> int:
    """Return the bytes that the gathers of an op may keep: no more than two words for each element they saw."""
    numel = node.scope.numel if node.scope else node.spec.numel
    return min(STATE_BYTES, 8 * numel) * (1 + len(node.models))


def _reads(targets: Sequence[Target], nodes: Sequence[Node]) -> int:
    """Return the bytes read from files: a tensor is read once in every pass that looks at it.

    Passes are named by what makes them; each comes with the number of elements that it looks at.
    """
    passes: dict[int, dict[Hashable, int]] = {}
    for target in targets:
        numel = target.tensor.spec.numel
        passes.setdefault(id(target.tensor.node), {})["write", numel] = numel
    total = 0
    for node in reversed(nodes):  # what reads a node comes before it
        mine = passes.pop(id(node))
        if isinstance(node, Source):
            total += sum(nbytes(numel, node.spec.dtype) for numel in mine.values())
        for index, child in enumerate(inputs_of(node)):
            passes.setdefault(id(child), {}).update(_passes_below(node, mine, index, child))
    return total


def _passes_below(node: Node, mine: dict[Hashable, int], index: int, child: Node) -> dict[Hashable, int]:
    """Return the passes over input `index` of a node that are needed for the passes over the node itself."""
    match node:
        case Rows():
            return {(name, node.start): numel for name, numel in mine.items()}
        case Stacked():
            rows = node.stretches.used(index)
            return {(name, id(node)): min(numel, rows * node.spec.row) for name, numel in mine.items()}
        case Member():
            return {(id(node.group), index): child.spec.numel}
        case Emitted():
            return {(id(node.call), "emit"): child.spec.numel}
        case Apply() if node.split is Split.TENSOR:
            return {(id(node), index): child.spec.numel}
        case Apply() if node.split in (Split.REDUCE, Split.MODEL):
            gathers = range(node.op.implementation.gathers)
            return mine | {(id(node), index): node.spec.numel for index in gathers}
        case _:
            return mine
