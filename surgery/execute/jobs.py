"""A job on its way: phases of units that may run side by side, each phase needing the one before.

For every REDUCE op below the job's tensors a phase for each gather pass, for every TENSOR or GROUP op a phase that
computes it whole, at last a phase that applies, rounds, hashes and writes, span by span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch

from surgery.checkpoint.hashing import PIECE
from surgery.errors import OpError
from surgery.execute.chunk import EngineChunk
from surgery.execute.evaluate import Evaluator, Held, compute_dtype, op_failed, wrong_result
from surgery.execute.report import Meter
from surgery.execute.sink import Sink, Writing
from surgery.ops import BLOCK, SAMPLE_RUN, SAMPLE_RUNS, Reduce, Scan, Split
from surgery.plan.nodes import Agree, Apply, GroupCall, Member, Node, Source, inputs_of, sources, walk
from surgery.schedule.jobs import GATHER_SPAN, Job, Target
from surgery.tensors import DTYPES, nbytes

Unit = Callable[[Evaluator], None]
Phases = Iterator[list[Unit]]

COPY_CHUNK = 1 << 20  # bytes copied at a time: small enough to stay in the cache between read, hash and write


@dataclass(slots=True)
class Fold:
    """Adds up what spans found, in their order, whoever finishes first."""

    op: Reduce
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
    """Return the units of one gather pass over a tensor; `first` is the index of its first span in the fold."""
    dtype = compute_dtype(node)
    op: Reduce = node.op.implementation
    numel = node.spec.numel
    if scan is Scan.SAMPLE:
        return [lambda work: fold.add(first, _sampled(work, node, op, found, held, dtype))]
    spans = [(start, min(start + GATHER_SPAN, numel)) for start in range(0, numel, GATHER_SPAN)] or [(0, 0)]

    def unit(index: int, start: int, stop: int) -> Unit:
        return lambda work: fold.add(
            first + index, _gathered(work, node, op, found, held, dtype, start, stop)
        )

    return [unit(index, start, stop) for index, (start, stop) in enumerate(spans)]


def _gathered(
    work: Evaluator,
    node: Apply,
    op: Reduce,
    found: Any,
    held: Held,
    dtype: torch.dtype,
    start: int,
    stop: int,
) -> Any:
    """Fold what the blocks of one span contribute."""
    total: Any = None
    for at in range(start, max(stop, start + 1), BLOCK):
        work.begin()
        prefetch(node, at + GATHER_SPAN, BLOCK)
        x = work.chunk(node, at, min(at + BLOCK, stop), held, dtype)
        part = _gather(work, node, op, x, found)
        total = part if at == start else op.fold(total, part)
        work.place.finish()
    return total


def _sampled(work: Evaluator, node: Apply, op: Reduce, found: Any, held: Held, dtype: torch.dtype) -> Any:
    """Gather from a fixed sample: short runs spread evenly, the same ones in every run of the program."""
    numel = node.spec.numel
    step = max(numel // SAMPLE_RUNS, 1)
    runs = [(at, min(at + SAMPLE_RUN, numel)) for at in range(0, numel, step)][:SAMPLE_RUNS]
    if step <= SAMPLE_RUN:
        runs = [(0, numel)]
    part = _gather(work, node, op, work.sample(node, runs, held, dtype), found)
    work.place.finish()
    return part


def _gather(work: Evaluator, node: Apply, op: Reduce, x: EngineChunk, found: Any) -> Any:
    try:
        with torch.no_grad():
            return op.gather(x, node.params, found)
    except OpError:
        raise
    except Exception as error:
        raise op_failed(node, error) from error


def prefetch(root: Node, start: int, numel: int) -> None:
    """Ask the system to read ahead what a range of a node is computed from."""
    for source in sources(root):
        if start < source.spec.numel:
            size = nbytes(min(numel, source.spec.numel - start), source.spec.dtype)
            source.checkpoint.prefetch(source.spec.name, nbytes(start, source.spec.dtype), size)


class JobRun:
    """One job while it runs. `found` starts with what the whole-model gathers found."""

    def __init__(
        self,
        job: Job,
        sinks: Sequence[Sink],
        model_found: dict[int, Any],
        done: Callable[[Writing], None],
        meter: Meter,
    ) -> None:
        self.job = job
        self._meter = meter
        self.held = Held(found=model_found)
        self._sinks = sinks
        self._done = done

    def phases(self) -> Phases:
        """Yield the units of each phase; to be advanced when all of them are done."""
        self.held = Held(found=dict(self.held.found))
        for node in walk(*self.job.roots):
            if isinstance(node, Member):
                if id(node) not in self.held.whole:
                    yield [lambda work, group=node.group: self._group(work, group)]  # type: ignore[misc]
                    self._hold_members(node.group)
            elif isinstance(node, Apply) and id(node) not in self.held.found:
                if node.split is Split.REDUCE:
                    yield from self._reduce(node)
                elif node.split is Split.TENSOR:
                    yield [lambda work, call=node: self._tensor(work, call)]  # type: ignore[misc]
        yield self._write()
        self.held = Held()

    def _reduce(self, node: Apply) -> Phases:
        found: Any = None
        done = 0
        while (scan := node.op.implementation.scan(node.signature, node.params, found, done)) is not None:
            fold = Fold(node.op.implementation)
            yield gather_units(node, scan, found, fold, self.held)
            found = node.op.implementation.solve(node.signature, node.params, fold.total, found)
            done += 1
        self.held.found[id(node)] = found

    def _whole(self, work: Evaluator, node: Node, dtype: torch.dtype) -> torch.Tensor:
        """Return a node's values in one buffer of their own."""
        out = torch.empty(node.spec.numel, dtype=dtype, device=work.place.device)
        for start in range(0, node.spec.numel, self.job.chunk):
            stop = min(start + self.job.chunk, node.spec.numel)
            work.begin()
            out[start:stop] = work.value(node, start, stop, self.held, dtype)
            work.place.finish()
        return out.view(node.spec.shape)

    def _call_chunk(self, work: Evaluator, node: Apply) -> EngineChunk:
        dtype = compute_dtype(node)
        models = [self._whole(work, child, dtype) for child in node.models]
        base = None if node.base is None else self._whole(work, node.base, dtype)
        work.begin()
        return EngineChunk(
            node.signature, models, base, 0, work.arena, (node.seed, node.op.name, node.op.version)
        )

    def _tensor(self, work: Evaluator, node: Apply) -> None:
        x = self._call_chunk(work, node)
        result = work.call(node, node.op.implementation, (x, node.params))
        if tuple(result.shape) != node.spec.shape:
            raise wrong_result(node, f"returned shape {tuple(result.shape)}, it declared {node.spec.shape}")
        work.checked(node, x, result)
        self.held.whole[id(node)] = result.reshape(-1)
        work.place.finish()

    def _group(self, work: Evaluator, group: GroupCall) -> None:
        members = {name: self._call_chunk(work, member) for name, member in group.members.items()}
        results: Any = work.call(group, group.op.implementation.apply, (members, group.params))  # type: ignore[arg-type]
        for name, member in group.members.items():
            result = results.get(name)
            if result is None or tuple(result.shape) != member.spec.shape:
                shape = None if result is None else tuple(result.shape)
                raise wrong_result(group, f"returned {shape} for {name}, whose shape is {member.spec.shape}")
            work.checked(member, members[name], result)
            self.held.whole[id(member)] = result.reshape(-1)
        work.place.finish()

    def _hold_members(self, group: GroupCall) -> None:
        """Make a group's results known under the nodes that stand for them."""
        for node in walk(*self.job.roots):
            if isinstance(node, Member) and node.group is group:
                self.held.whole[id(node)] = self.held.whole[id(group.members[node.name])]

    def _write(self) -> list[Unit]:
        """Return the writing units of targets that share a node together, so that it is computed once a range."""
        units: list[Unit] = []
        by_size: dict[int, list[Target]] = {}
        for target in self.job.targets:
            if is_copy(target):
                units += self._copies(target)
            else:
                by_size.setdefault(target.tensor.spec.numel, []).append(target)
        for numel, targets in by_size.items():
            writings = [(target, self._begin(target)) for target in targets]
            # spans are whole pieces of every target, so that each piece is hashed by one worker in order
            span = PIECE * 8 // min(DTYPES[target.tensor.spec.dtype].bits for target in targets)
            for start in range(0, numel, span) if numel else [0]:
                units.append(self._span(writings, start, min(start + span, numel)))
        return units

    def _begin(self, target: Target) -> Writing:
        return self._sinks[target.output].begin(target.tensor.spec)

    def _span(self, writings: list[tuple[Target, Writing]], start: int, stop: int) -> Unit:
        dtypes = {id(target): compute_dtype(target.tensor.node) for target, _ in writings}

        def unit(work: Evaluator) -> None:
            streams = [
                writing.stretch(nbytes(start, target.tensor.spec.dtype)) for target, writing in writings
            ]
            for at in range(start, stop, self.job.chunk):
                end = min(at + self.job.chunk, stop)
                work.begin()
                for (target, _), stream in zip(writings, streams, strict=True):
                    spec = target.tensor.spec
                    value = work.value(target.tensor.node, at, end, self.held, dtypes[id(target)])
                    stream.write(work.encoded(value, spec.dtype, spec.name).numpy().data)
                    self._meter.add(nbytes(end - at, spec.dtype), spec.name)
            for stream, (_, writing) in zip(streams, writings, strict=True):
                if stream.close():
                    self._done(writing)

        return unit

    def _copies(self, target: Target) -> list[Unit]:
        writing = self._begin(target)
        spec = target.tensor.spec
        nodes = _copied(target.tensor.node)

        def unit(start: int, stop: int) -> Unit:
            def copy(work: Evaluator) -> None:
                stream = writing.stretch(start)
                for at in range(start, stop, COPY_CHUNK):
                    work.begin()
                    size = min(COPY_CHUNK, stop - at)
                    first = _read(work, nodes[0], at, size)
                    for other in nodes[1:]:
                        if not torch.equal(first, _read(work, other, at, size)):
                            raise _disagree(target.tensor.node, nodes[0], other)
                    stream.write(first.numpy().data)
                    self._meter.add(size, spec.name)
                if stream.close():
                    self._done(writing)

            return copy

        pieces = range(0, spec.nbytes, PIECE) if spec.nbytes else [0]
        return [unit(start, min(start + PIECE, spec.nbytes)) for start in pieces]


def is_copy(target: Target) -> bool:
    """Return whether a target's bytes are those of tensors in files."""
    node = target.tensor.node
    while not isinstance(node, Source | Agree):
        children = inputs_of(node)
        if isinstance(node, Apply | Member) or not children:
            return False
        node = children[0]
    return node.spec.dtype == target.tensor.spec.dtype


def _copied(node: Node, start: int = 0) -> list[tuple[Source, int]]:
    """Return the sources behind a copy, each with the byte at which the copied stretch begins."""
    match node:
        case Source():
            return [(node, start)]
        case Agree():
            return [copied for child in inputs_of(node) for copied in _copied(child, start)]
        case _:
            (child,) = inputs_of(node)
            assert not isinstance(node, Apply | Member)
            return _copied(child, start + nbytes(node.start, node.spec.dtype))


def _read(work: Evaluator, copied: tuple[Source, int], at: int, size: int) -> torch.Tensor:
    source, start = copied
    raw = work.arena.staging(size)
    source.checkpoint.read_into(source.spec.name, start + at, raw.numpy().data)
    work.bytes_read += size
    return raw


def _disagree(node: Node, first: tuple[Source, int], other: tuple[Source, int]) -> OpError:
    names = f"`{first[0].checkpoint.location}` and `{other[0].checkpoint.location}`"
    step = node.step if isinstance(node, Agree) else ""
    return OpError(
        f"step {step}: {node.spec.name} is {node.spec.dtype} and differs between {names}, integers are not merged; "
        "set `on_int: first` to take the first"
    )
