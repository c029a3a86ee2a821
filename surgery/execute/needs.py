"""What tensors need before their ranges can be computed: what gathers find, and results that are held whole.

A phase for each gather pass of every REDUCE op below them, and one for every TENSOR or GROUP op.
A phase is a list of units that may run side by side; each phase needs the ones before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Protocol

import torch

from surgery.execute.arena import Arena
from surgery.execute.calls import invoke
from surgery.execute.chunk import EngineChunk
from surgery.execute.contract import attempt, require_floats, wrong_result
from surgery.execute.evaluate import Evaluator, compute_dtype, draw_key
from surgery.execute.finite import check_inputs, checked
from surgery.execute.held import Held
from surgery.execute.program import Program, compilable
from surgery.notes import take_note
from surgery.ops import BLOCK, SAMPLE_RUN, SAMPLE_RUNS, Reduce, Scan, Split
from surgery.plan.nodes import Apply, GroupCall, Member, Node, inputs_of, sources, walk
from surgery.schedule.jobs import GATHER_SPAN
from surgery.tensors import nbytes

Unit = Callable[[Evaluator], None]
Phases = Iterator[list[Unit]]


class Folds(Protocol):
    """Something that adds up parts; a Reduce is one."""

    def fold(self, total: Any, part: Any) -> Any:
        """Add a part to the total."""
        ...


@dataclass(slots=True)
class Fold:
    """Adds up what spans found, in their order, whoever finishes first."""

    op: Folds
    total: Any = None
    _next: int = 0
    _early: dict[int, Any] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def add(self, index: int, part: Any) -> None:
        """Take the total of span `index`."""
        with self._lock:
            self._early[index] = part
            while self._next in self._early:
                part = self._early.pop(self._next)
                self.total = part if self._next == 0 else self.op.fold(self.total, part)
                self._next += 1


def gather_units(node: Apply, scan: Scan, found: Any, fold: Fold, held: Held, first: int = 0) -> list[Unit]:
    """Return the units of one gather pass over a tensor; `first` is the index of its first span in the fold.

    There are none for a tensor without elements: an op need not know what to gather from nothing.
    """
    numel = node.spec.numel
    if numel == 0:
        return []
    dtype = compute_dtype(node)
    if scan is Scan.SAMPLE:
        return [lambda work: attempt(node, fold.add, first, _sampled(work, node, found, held, dtype))]

    def unit(index: int, start: int, stop: int) -> Unit:
        def gather(work: Evaluator) -> None:
            attempt(node, fold.add, index, _gathered(work, node, found, held, dtype, start, stop))

        return gather

    starts = enumerate(range(0, numel, GATHER_SPAN), first)
    return [unit(index, start, min(start + GATHER_SPAN, numel)) for index, start in starts]


def _gathered(
    work: Evaluator, node: Apply, found: Any, held: Held, dtype: torch.dtype, start: int, stop: int
) -> Any:
    """Fold what the blocks of one span contribute."""
    total: Any = None
    prefetch(node, stop, GATHER_SPAN)
    see: Callable[[int], EngineChunk] | None = None
    compiled, length = compilable(work, *inputs_of(node)), -1
    for at in range(start, stop, BLOCK):
        end = min(at + BLOCK, stop)
        if not compiled or end - at != length:
            length = end - at
            work.begin()
            see = Program(work, inputs_of(node), length, held, dtype).chunk(node) if compiled else None
        x = see(at) if see else work.chunk(node, at, end, held, dtype)
        part = _gather(work, node, x, found, held)
        total = part if at == start else attempt(node, node.op.implementation.fold, total, part)
        work.place.finish()
    return total


def _sampled(work: Evaluator, node: Apply, found: Any, held: Held, dtype: torch.dtype) -> Any:
    """Gather from a fixed sample: short runs spread evenly, the same ones in every run of the program."""
    runs = sample_runs(node.spec.numel)
    part = _gather(work, node, work.sample(node, runs, held, dtype), found, held)
    work.place.finish()
    return part


def sample_runs(numel: int) -> list[tuple[int, int]]:
    """Return the ranges that a sampling pass reads, in order; everything when the tensor is that small.

    Each run lies somewhere else in its share of the tensor, so that a matrix's columns do not decide.
    """
    step = numel // SAMPLE_RUNS
    if step <= SAMPLE_RUN:
        return [(0, numel)]
    starts = (j * step + j * 0x9E3779B1 % (step - SAMPLE_RUN) for j in range(SAMPLE_RUNS))
    return [(start, start + SAMPLE_RUN) for start in starts]


def _gather(work: Evaluator, node: Apply, x: EngineChunk, found: Any, held: Held) -> Any:
    if id(node) not in held.looked_at:
        check_inputs(work, node, x)
    return invoke(node, node.op.implementation.gather, (x, node.params, found))


def _note(node: Apply, numbers: dict[str, float], name: str, number: float) -> None:
    if wrong := take_note(numbers, name, number):
        raise wrong_result(node, wrong)


def prefetch(root: Node, start: int, numel: int) -> None:
    """Ask the system to read ahead what a range of a node is computed from."""
    for source in sources(root):
        if start < source.spec.numel:
            size = nbytes(min(numel, source.spec.numel - start), source.spec.dtype)
            source.checkpoint.prefetch(source.spec.name, nbytes(start, source.spec.dtype), size)


class Needs:
    """Finds what some nodes need and puts it into `held`; whole tensors are read `chunk` elements at a time."""

    def __init__(self, roots: Sequence[Node], held: Held, chunk: int) -> None:
        self.roots, self.held, self.chunk = roots, held, chunk

    def phases(self) -> Phases:
        """Yield the units of each phase; to be advanced when all of them are done."""
        for node in walk(*self.roots):
            if isinstance(node, Member):
                if id(node) not in self.held.whole:
                    yield [lambda work, group=node.group: self._group(work, group)]  # type: ignore[misc]
                    self._hold_members(node.group)
            elif isinstance(node, Apply) and id(node) not in self.held.found:
                if node.split is Split.REDUCE:
                    yield from self._reduce(node)
                elif node.split is Split.TENSOR and not node.parts:
                    yield [lambda work, call=node: self._tensor(work, call)]  # type: ignore[misc]

    def _reduce(self, node: Apply) -> Phases:
        op: Reduce = node.op.implementation
        found: Any = None
        done = 0
        if node.spec.numel:
            while (scan := attempt(node, op.scan, node.signature, node.params, found, done)) is not None:
                fold = Fold(op)
                yield gather_units(node, scan, found, fold, self.held)
                found = attempt(node, op.solve, node.signature, node.params, fold.total, found)
                done += 1
                if scan is Scan.ALL:
                    self.held.looked_at.add(id(node))
        self.held.found[id(node)] = found

    def _whole(self, work: Evaluator, node: Node, dtype: torch.dtype) -> torch.Tensor:
        """Return a node's values in one buffer of their own."""
        out = torch.empty(node.spec.numel, dtype=dtype, device=work.place.device)
        for start in range(0, node.spec.numel, self.chunk):
            stop = min(start + self.chunk, node.spec.numel)
            work.begin()
            out[start:stop] = work.operand(node, start, stop, self.held, dtype)
            work.place.finish()
        return out.view(node.spec.shape)

    def whole_chunk(self, work: Evaluator, node: Apply) -> EngineChunk:
        """Return what an op sees of whole tensors."""
        dtype = compute_dtype(node)
        models = [self._whole(work, child, dtype) for child in node.models]
        base = None if node.base is None else self._whole(work, node.base, dtype)
        beside = [self._whole(work, child, dtype) for child in node.beside]
        work.begin()
        statistics = self.held.statistics(node)
        # buffers of its own: the result may be `x.out`, which is held, and the arena would keep whole tensors
        arena = Arena(work.place.device)
        noted = self.held.notes[id(node)] = {}
        note = partial(_note, node, noted)
        return EngineChunk(node.signature, models, base, 0, arena, draw_key(node), statistics, beside, note)

    def _tensor(self, work: Evaluator, node: Apply) -> None:
        if node.spec.numel == 0:
            self.held.whole[id(node)] = torch.empty(0, dtype=compute_dtype(node), device=work.place.device)
            return
        x = self.whole_chunk(work, node)
        result = invoke(node, node.op.implementation, (x, node.params))
        self._hold(work, node, node, x, result)
        work.place.finish()

    def _group(self, work: Evaluator, group: GroupCall) -> None:
        members = {name: self.whole_chunk(work, member) for name, member in group.members.items()}
        results = invoke(group, group.op.implementation.apply, (members, group.params))
        if not isinstance(results, Mapping) or set(results) != set(members):
            names = sorted(results) if isinstance(results, Mapping) else type(results).__name__
            raise wrong_result(group, f"returned {names}, not a tensor for each of {sorted(members)},")
        for name, member in group.members.items():
            self._hold(work, group, member, members[name], results[name])
        work.place.finish()

    def _hold(
        self, work: Evaluator, caller: Apply | GroupCall, node: Apply, x: EngineChunk, result: Any
    ) -> None:
        """Keep a result after holding it to what was declared."""
        require_floats(caller, result, x)
        if tuple(result.shape) != node.spec.shape:
            what = (
                f"returned shape {tuple(result.shape)} for {node.spec.name}, it declared {node.spec.shape},"
            )
            raise wrong_result(caller, what)
        checked(work, node, x, result)
        self.held.whole[id(node)] = result.reshape(-1)

    def _hold_members(self, group: GroupCall) -> None:
        """Make a group's results known under the nodes that stand for them."""
        for node in walk(*self.roots):
            if isinstance(node, Member) and node.group is group:
                self.held.whole[id(node)] = self.held.whole[id(group.members[node.name])]
