"""Nodes compiled for consecutive ranges of one length: buffers and functions are bound once, not for every chunk.

A chunk costs a few dozen microseconds of arithmetic in each of a dozen calls into torch. Whatever Python does between
them holds the interpreter's lock, and a worker that waits for the lock sleeps: with looking buffers up chunk by chunk
two workers were no faster than one (measured). Nodes that need rows or accelerator streams are not compiled; the
evaluator computes them range by range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from surgery.execute.arena import Staging
from surgery.execute.calls import on_range
from surgery.execute.chunk import EngineChunk
from surgery.execute.evaluate import Evaluator, draw_key
from surgery.execute.finite import checked, finite, refuse_overflow
from surgery.execute.held import Held
from surgery.math.convert import finds_nonfinite, may_have_infinity, store
from surgery.ops import Split
from surgery.plan.nodes import Apply, Member, Node, Rows, Source, Stacked, below_rows, inputs_of, walk
from surgery.tensors import DTYPES, TensorSpec

Compiled = Callable[[int], torch.Tensor]

# Elements read and computed at a time within a range that is written at once: inputs, result and what lies between then
# stay in the caches. Smaller pieces are computed faster (by half on 64 Ki elements), but every call into Python and
# torch costs microseconds, and this is where both together cost least (measured on a mean of three models).
PIECE = 1 << 17


def compilable(work: Evaluator, *roots: Node) -> bool:
    """Return whether programs can be made of these nodes."""
    if work.place.stream is not None:
        return False
    nodes = list(walk(*roots))
    return not any(
        isinstance(n, Member | Stacked) or (isinstance(n, Apply) and n.split in _HELD) for n in nodes
    ) and all(isinstance(below_rows(n)[0], Source) for n in nodes if isinstance(n, Rows))


_HELD = (Split.ROW, Split.TENSOR)


class Program:
    """Values of nodes on ranges of `length` elements. What a call returns is overwritten by the next range."""

    def __init__(
        self, work: Evaluator, roots: Sequence[Node], length: int, held: Held, dtype: torch.dtype
    ) -> None:
        self._work, self._length, self._held, self._dtype = work, length, held, dtype
        self._uses = Counter(id(child) for node in walk(*roots) for child in inputs_of(node))
        self._uses.update(id(root) for root in roots)
        self._made: dict[int, Compiled] = {}
        self._chunks: dict[int, EngineChunk] = {}
        self._deferred: set[int] = set()
        # several roots take turns on a range: what they share is then computed once for the whole range
        self._piece = PIECE if len(roots) == 1 and length % PIECE == 0 else length

    def stored(self, node: Node, spec: TensorSpec, out: Staging) -> Callable[[int], memoryview]:
        """Return the function from a range's first element to the bytes of a root, in `out`.

        Where NaN and Inf of the inputs show in the result, they are looked for in what is stored: it has half the
        bytes, and overflow is looked for there anyway.
        """
        work, deferred = self._work, self._can_defer(node, spec)
        if deferred:
            self._deferred.add(id(node))
        value = self._compile(node) if deferred else self.root(node)
        whole, piece, tag, computed = out.typed(spec.dtype), self._piece, spec.dtype, self._dtype
        views = list(
            zip(range(0, self._length, max(piece, 1)), torch.split(whole, max(piece, 1)), strict=False)
        )
        plain = computed is not torch.float64 or not finds_nonfinite(tag)

        def explain(at: int) -> None:
            """Compute the range once more, piece by piece, and refuse what is wrong with it."""
            for offset, view in views:
                result = value(at + offset)
                if deferred:
                    chunk, looked_at = self._chunks[id(node)], id(node) in self._held.looked_at
                    checked(work, node, chunk, result, looked_at=looked_at)  # type: ignore[arg-type]
                refuse_overflow(work, result, view, spec, at + offset)

        def stored(at: int) -> memoryview:
            for offset, view in views:
                if plain:
                    view.copy_(value(at + offset))
                else:
                    store(value(at + offset), tag, view)
            if work.policy != "keep" and may_have_infinity(whole, tag, computed):
                explain(at)
            return out.memory

        return stored

    def _can_defer(self, node: Node, spec: TensorSpec) -> bool:
        """Return whether a root is used once, and all NaN and Inf can be found in its stored bytes."""
        if not isinstance(node, Apply) or self._uses[id(node)] > 1 or not finds_nonfinite(spec.dtype):
            return False
        return node.op.propagates or id(node) in self._held.looked_at

    def root(self, node: Node) -> Compiled:
        """Return the function from a range's first element to values that are to be written."""
        value = self._compile(node)
        source, _ = below_rows(node)
        if not isinstance(source, Source) or self._work.policy != "error":
            return value
        work = self._work
        return lambda start: finite(work, source, value(start))

    def chunk(self, node: Apply) -> Callable[[int], EngineChunk]:
        """Return the function from a range's first element to what a node's op sees of it."""
        inputs = [self._rounded(child) for child in inputs_of(node)]
        x: EngineChunk | None = None
        work, based, first = self._work, node.base is not None, int(node.base is not None)
        last = first + len(node.models)

        def see(start: int) -> EngineChunk:
            nonlocal x
            values = [load(start) for load in inputs]
            if x is None:
                models, base, beside = values[first:last], values[0] if based else None, values[last:]
                signature, statistics = work.signature(node), self._held.statistics(node)
                told = signature, models, base, start, work.arena, draw_key(node), statistics
                x = EngineChunk(*told, beside)
                self._chunks[id(node)] = x
            else:
                x.move(start, values)
            return x

        return see

    def _rounded(self, node: Node) -> Compiled:
        """Return the function to a node's values as ops see them: float64 that another op returned is rounded."""
        value, dtype = self._compile(node), self._dtype
        if isinstance(below_rows(node)[0], Source):
            return value
        return lambda start: made if (made := value(start)).dtype is dtype else made.to(dtype)

    def _compile(self, node: Node) -> Compiled:
        made = self._made.get(id(node))
        if made is None:
            source, skipped = below_rows(node)
            if isinstance(source, Source):
                made = self._source(source, skipped)
            else:
                assert isinstance(node, Apply)
                made = self._apply(node)
            if self._uses[id(node)] > 1:
                made = _once(made)
            self._made[id(node)] = made
        return made

    def _source(self, node: Source, skipped: int) -> Compiled:
        work, name, tag = self._work, node.spec.name, node.spec.dtype
        item = DTYPES[tag].bits // 8
        staging = work.arena.staging(self._piece * item)
        work.arena.give_back_staging()  # bytes are decoded at once: all inputs share what the cache holds
        out = work.arena.take(self._piece, self._dtype)
        read, memory, typed = node.checkpoint.reader(name), staging.memory, staging.typed(tag)
        size = len(memory)
        zero = work.policy == "zero"

        def load(start: int) -> torch.Tensor:
            read((start + skipped) * item, memory)
            work.bytes_read += size
            out.copy_(typed)
            return torch.nan_to_num_(out, nan=0.0, posinf=0.0, neginf=0.0) if zero else out

        return load

    def _apply(self, node: Apply) -> Compiled:
        see = self.chunk(node)
        work, params = self._work, node.params
        function = node.op.implementation
        deferred = id(node) in self._deferred
        if node.split in (Split.REDUCE, Split.MODEL):
            found = self._held.found[id(node.scope) if node.scope is not None else id(node)]
            apply = function.apply
            looked_at = id(node) in self._held.looked_at
            return lambda start: on_range(
                work, node, x := see(start), apply, (x, params, found), looked_at=looked_at, deferred=deferred
            )
        return lambda start: on_range(work, node, x := see(start), function, (x, params), deferred=deferred)


def _once(made: Compiled) -> Compiled:
    """Compute a node that several others read once for each range."""
    at, value = -1, None

    def once(start: int) -> torch.Tensor:
        nonlocal at, value
        if at != start or value is None:
            at, value = start, made(start)
        return value

    return once
