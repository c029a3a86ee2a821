"""A job on its way: what its tensors need first, then a phase that applies, rounds, hashes and writes, span by span."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from surgery.checkpoint.hashing import PIECE
from surgery.errors import OpError
from surgery.execute.arena import Staging
from surgery.execute.emit import emissions, stored_bytes
from surgery.execute.evaluate import Evaluator, compute_dtype
from surgery.execute.held import Held
from surgery.execute.needs import Needs, Phases, Unit, prefetch
from surgery.execute.noted import noted
from surgery.execute.program import Program, compilable
from surgery.execute.report import Meter
from surgery.execute.sink import Sink, Writing
from surgery.execute.stacked import copied as stacked_bytes
from surgery.execute.stacked import copies
from surgery.plan.nodes import (
    Agree,
    Apply,
    Emitted,
    Member,
    Node,
    Rows,
    Source,
    Stacked,
    below_rows,
    inputs_of,
    sources,
)
from surgery.schedule.jobs import Job, Target
from surgery.tensors import DTYPES, nbytes

Stored = Callable[[int], memoryview]  # from a range's first element to the bytes to write

COPY_CHUNK = 1 << 20  # bytes copied at a time: small enough to stay in the cache between read, hash and write


class JobRun:
    """One job while it runs. `model_found` is what the whole-model gathers found."""

    def __init__(
        self,
        job: Job,
        sinks: Sequence[Sink],
        model_found: dict[int, object],
        done: Callable[[Writing], None],
        meter: Meter,
    ) -> None:
        self.job = job
        self.held = Held()
        self._model_found = model_found
        self._meter = meter
        self._sinks = sinks
        self._done = done

    def phases(self) -> Phases:
        """Yield the units of each phase; to be advanced when all of them are done."""
        self.held = Held(found=dict(self._model_found))
        yield from Needs(self.job.roots, self.held, self.job.chunk).phases()
        yield self._write()
        self.held = Held()

    def _write(self) -> list[Unit]:
        """Return the writing units. Targets of one size advance together, so that what they share is computed once."""
        read = {
            id(s) for target in self.job.targets if not is_copy(target) for s in sources(target.tensor.node)
        }
        by_size: dict[int, list[Target]] = {}
        by_source: dict[Hashable, list[Target]] = {}
        emitted: dict[int, list[Target]] = {}
        units: list[Unit] = []
        for target in self.job.targets:
            node = target.tensor.node
            if isinstance(node, Emitted):
                emitted.setdefault(id(node.call), []).append(target)
            elif isinstance(node, Stacked) and copies(node, target.tensor.spec.dtype):
                units += self._stacks(target, node)
            elif is_copy(target) and not any(id(source) in read for source in sources(node)):
                # those of a set that must agree are all one, whichever comes first
                key = frozenset((id(source), start) for source, start in _copied(node))
                by_source.setdefault((key, target.tensor.spec.nbytes), []).append(target)
            else:
                by_size.setdefault(target.tensor.spec.numel, []).append(target)
        units += [unit for targets in by_source.values() for unit in self._copies(targets)]
        units += [unit for targets in by_size.values() for unit in self._spans(targets)]
        return units + [self._emits(targets) for targets in emitted.values()]

    def _begin(self, targets: Sequence[Target]) -> list[tuple[Target, Writing]]:
        return [(target, self._sinks[target.output].begin(target.tensor.spec)) for target in targets]

    def _spans(self, targets: Sequence[Target]) -> list[Unit]:
        """Return units that write a span of some targets each."""
        numel = targets[0].tensor.spec.numel
        # copies first: the bytes that they read are then there for the arithmetic of the others
        writings = self._begin(sorted(targets, key=is_copy, reverse=True))
        # spans are whole pieces of every target, so that each piece is hashed by one worker in order
        span = PIECE * 8 // min(DTYPES[target.tensor.spec.dtype].bits for target in targets)
        starts = range(0, numel, span) if numel else [0]
        return [self._span(writings, start, min(start + span, numel)) for start in starts]

    def _span(self, writings: list[tuple[Target, Writing]], start: int, stop: int) -> Unit:
        def unit(work: Evaluator) -> None:
            for target, _ in writings:
                prefetch(target.tensor.node, stop, stop - start)
            specs = [target.tensor.spec for target, _ in writings]
            streams = [
                w.stretch(nbytes(start, spec.dtype)) for spec, (_, w) in zip(specs, writings, strict=True)
            ]
            stored: list[Stored] = []
            length = -1
            for at in range(start, stop, self.job.chunk):
                end = min(at + self.job.chunk, stop)
                if end - at != length:
                    length = end - at
                    work.begin()
                    stored = self._stored(work, [target for target, _ in writings], length)
                for spec, store, stream in zip(specs, stored, streams, strict=True):
                    data = store(at)
                    stream.write(data)
                    self._meter.add(len(data), spec.name)
            for stream, (target, writing) in zip(streams, writings, strict=True):
                if stream.close():
                    self._finish(target, writing)

        return unit

    def _finish(self, target: Target, writing: Writing) -> None:
        writing.notes = noted(target.tensor.node, self.held)
        self._done(writing)

    def _stored(self, work: Evaluator, targets: Sequence[Target], length: int) -> list[Stored]:
        """Return for each target the function from a range's first element to the bytes to write."""
        nodes = [target.tensor.node for target in targets]
        dtypes = {compute_dtype(node) for node in nodes}
        if len(dtypes) > 1 or any(map(is_copy, targets)) or not compilable(work, *nodes):
            return [self._ranged(work, target, length, first=target is targets[0]) for target in targets]
        program = Program(work, nodes, length, self.held, dtypes.pop())
        return [
            program.stored(t.node, t.spec, work.arena.staging(nbytes(length, t.spec.dtype)))
            for t in (target.tensor for target in targets)
        ]

    def _ranged(self, work: Evaluator, target: Target, length: int, *, first: bool) -> Stored:
        """Return the function for a target that is not compiled; the first of a span's begins each range."""
        node, spec = target.tensor.node, target.tensor.spec
        dtype, copied = compute_dtype(node), is_copy(target)
        source, skipped = below_rows(node)

        def store(at: int) -> memoryview:
            if first:
                work.begin()
            if copied:
                assert isinstance(source, Source)  # Agree stands for integers, and those nobody computes with
                return work.raw(source, at + skipped, at + length + skipped)
            value = work.root(node, at, at + length, self.held, dtype)
            return work.encoded(value, spec, at, work.arena.staging(nbytes(length, spec.dtype)))

        return store

    def _emits(self, targets: Sequence[Target]) -> Unit:
        """Return the unit that writes what one call emits, in order: pieces of its tensors end at different rows."""
        writings = self._begin(targets)
        node = targets[0].tensor.node
        assert isinstance(node, Emitted)
        call = node.call

        def unit(work: Evaluator) -> None:
            prefetch(call, 0, call.spec.numel)
            streams = [writing.stretch(0) for _, writing in writings]
            for values in emissions(work, call, self.held, self.job.chunk):
                for (target, _), stream in zip(writings, streams, strict=True):
                    value = values.get(target.tensor.node.spec.name)
                    if value is not None:
                        stream.write(data := stored_bytes(value, target.tensor.node.spec, work))
                        self._meter.add(len(data), target.tensor.spec.name)
            for stream, (target, writing) in zip(streams, writings, strict=True):
                if stream.close():
                    self._finish(target, writing)

        return unit

    def _copies(self, targets: Sequence[Target]) -> list[Unit]:
        """Return units that copy a piece each to all targets; they are copies of the same bytes."""
        node = targets[0].tensor.node
        copied = _copied(node)

        def read(work: Evaluator, at: int, size: int) -> Staging:
            first = _read(work, copied[0], at, size)
            for other in copied[1:]:
                if not torch.equal(first.raw, _read(work, other, at, size).raw):
                    raise _disagree(node, copied[0], other)
            return first

        return self._pieces(targets, read)

    def _stacks(self, target: Target, node: Stacked) -> list[Unit]:
        """Return units that copy a piece each of rows from wherever they are."""
        return self._pieces([target], lambda work, at, size: stacked_bytes(work, node, at, size))

    def _pieces(
        self, targets: Sequence[Target], read: Callable[[Evaluator, int, int], Staging]
    ) -> list[Unit]:
        """Return units that write a piece each of what `read` gives, by byte and size, to all targets."""
        writings = self._begin(targets)
        spec = targets[0].tensor.spec

        def unit(start: int, stop: int) -> Unit:
            def copy(work: Evaluator) -> None:
                streams = [writing.stretch(start) for _, writing in writings]
                for at in range(start, stop, COPY_CHUNK):
                    work.begin()
                    size = min(COPY_CHUNK, stop - at)
                    first = read(work, at, size)
                    for stream in streams:
                        stream.write(first.memory)
                        self._meter.add(size, spec.name)
                for stream, (_, writing) in zip(streams, writings, strict=True):
                    if stream.close():
                        self._done(writing)

            return copy

        pieces = range(0, spec.nbytes, PIECE) if spec.nbytes else [0]
        return [unit(start, min(start + PIECE, spec.nbytes)) for start in pieces]


def is_copy(target: Target) -> bool:
    """Return whether a target's bytes are those of tensors in files."""
    node, _ = below_rows(target.tensor.node)
    return isinstance(node, Source | Agree) and node.spec.dtype == target.tensor.spec.dtype


def _copied(node: Node, start: int = 0) -> list[tuple[Source, int]]:
    """Return the sources behind a copy, each once, with the byte at which the copied stretch begins."""
    match node:
        case Source():
            return [(node, start)]
        case Rows():
            below, _ = below_rows(node)  # stored as that is: a spec tells the dtype to write
            return _copied(node.node, start + nbytes(node.start, below.spec.dtype))
        case Agree():
            return list(
                dict.fromkeys(copied for child in inputs_of(node) for copied in _copied(child, start))
            )
        case Apply() | Member() | Emitted() | Stacked():
            raise AssertionError("what an op computes is no copy")


def _read(work: Evaluator, copied: tuple[Source, int], at: int, size: int) -> Staging:
    source, start = copied
    staging = work.arena.staging(size)
    source.checkpoint.read_into(source.spec.name, start + at, staging.memory)
    work.bytes_read += size
    return staging


def _disagree(node: Node, first: tuple[Source, int], other: tuple[Source, int]) -> OpError:
    agree, _ = below_rows(node)
    assert isinstance(agree, Agree)
    names = f"`{first[0].checkpoint.location}` and `{other[0].checkpoint.location}`"
    return OpError(
        f"step {agree.step}: {agree.spec.name} is {agree.spec.dtype} and differs between {names}, "
        "integers are not merged; set `on_int: first` to take the first"
    )
