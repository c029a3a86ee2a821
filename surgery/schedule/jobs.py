"""Jobs: the work behind one output tensor, or behind several that cannot be computed apart.

Output tensors belong to one job when they are members of one group, or when several outputs read the same tensor
of a file: then it is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surgery.ops import BLOCK, Reduce, Split
from surgery.plan.model import Output, OutputTensor
from surgery.plan.nodes import Agree, Apply, Member, Node, Rows, Source, inputs_of, walk

# Elements of a gather that one worker folds before its total joins the others': part of the numbers, like BLOCK.
GATHER_SPAN = 32 * BLOCK
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

    chunk    elements that are computed at a time
    working  bytes that a worker needs for a chunk
    held     bytes held from the job's start to its end: whole tensors and what gathers find
    reads    bytes read from files
    """

    targets: tuple[Target, ...]
    chunk: int
    working: int
    held: int
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
        elif several and isinstance(node, Source):
            yield id(node.checkpoint), node.spec.name, target.tensor.spec.numel


def _job(targets: Sequence[Target], chunk: int) -> Job:
    nodes = list(walk(*(target.tensor.node for target in targets)))
    rows = [node.spec.row for node in nodes if isinstance(node, Apply) and node.split is Split.ROW]
    size = max([chunk, *rows])
    numel = max(target.tensor.spec.numel for target in targets)
    return Job(
        targets=tuple(targets),
        chunk=chunk,
        working=_working(nodes, min(size, max(numel, 1)), len(targets)),
        held=_held(nodes),
        reads=sum(_reads(target.tensor.node) for target in _distinct(targets)),
    )


def _distinct(targets: Sequence[Target]) -> list[Target]:
    return list({id(target.tensor.node): target for target in targets}.values())


def _working(nodes: Sequence[Node], chunk: int, roots: int) -> int:
    """Return the bytes of one worker's buffers: a value for each node, the ops' scratch, raw bytes, temporaries."""
    wide = 8 if any(isinstance(node, Source) and node.spec.dtype == "F64" for node in nodes) else 4
    values = sum(not isinstance(node, Rows) for node in nodes)
    scratch = sum(2 + node.op.buffers for node in nodes if isinstance(node, Apply))
    temporaries = 4  # masks, draws and encoded bytes
    return (values + scratch + temporaries + roots) * chunk * wide


def _held(nodes: Sequence[Node]) -> int:
    held = 0
    for node in nodes:
        if isinstance(node, Member):
            held += 4 * node.spec.numel
            if node.name == next(iter(node.group.members)):
                held += sum(_whole(member) for member in node.group.members.values())
        elif isinstance(node, Apply) and node.split is Split.TENSOR:
            held += _whole(node)
        elif isinstance(node, Apply) and isinstance(node.op.implementation, Reduce):
            held += STATE_BYTES * (1 + len(node.models))
    return held


def _whole(node: Apply) -> int:
    """Return the bytes of a whole-tensor call: inputs and result in float32, and the op's temporaries."""
    inputs = sum(4 * child.spec.numel for child in inputs_of(node))
    workspace = node.op.workspace(node.signature, node.params) if node.op.workspace else 3 * inputs
    return inputs + workspace + 4 * node.spec.numel


def _reads(root: Node) -> int:
    """Return the bytes read for a node: once to apply it, once more for each gather pass below it."""
    total = 0
    times: dict[int, int] = {id(root): 1}
    for node in reversed(list(walk(root))):
        count = times.get(id(node), 1)
        match node:
            case Source():
                total += node.spec.nbytes * count
            case Apply() if isinstance(node.op.implementation, Reduce):
                count += node.op.implementation.gathers if node.scope is None else 2
            case Apply() if node.split is Split.TENSOR:
                count = 1
            case Agree() | Rows() | Member() | Apply():
                pass
        for child in inputs_of(node):
            times[id(child)] = max(times.get(id(child), 0), count)
    return total
