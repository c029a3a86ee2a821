"""Values of nodes, range by range. One evaluator belongs to one worker and computes one chunk at a time.

A chain of ELEMENT ops is computed chunk by chunk without storing what lies between; a REDUCE or MODEL op needs what
its gather passes found, a TENSOR or GROUP op's result is held whole. Both are looked up in `Held`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from surgery.execute.arena import Arena, Staging
from surgery.execute.calls import on_range
from surgery.execute.chunk import EngineChunk
from surgery.execute.device import Place
from surgery.execute.finite import finite, refuse_overflow, source_of
from surgery.execute.held import Held
from surgery.execute.stacked import stacked
from surgery.math.convert import decode, encode, may_have_infinity, store, torch_dtype
from surgery.ops import Signature, Split
from surgery.plan.nodes import (
    Agree,
    Apply,
    Emitted,
    Member,
    Node,
    Rows,
    Scope,
    Source,
    Stacked,
    below_rows,
    inputs_of,
    sources,
)
from surgery.schedule.jobs import ALIGNED
from surgery.tensors import TensorSpec, nbytes


def compute_dtype(root: Node) -> torch.dtype:
    """Return float64 if a float64 tensor takes part, else float32."""
    return torch.float64 if any(source.spec.dtype == "F64" for source in sources(root)) else torch.float32


def draw_key(node: Apply) -> tuple[int, str, int]:
    """Return what an op's random numbers depend on, besides tensor, stream and element."""
    return node.seed, node.op.name, node.op.version


class Evaluator:
    """Computes ranges of nodes on one device with one worker's scratch memory."""

    def __init__(self, place: Place, on_nonfinite: Literal["error", "zero", "keep"]) -> None:
        self.place = place
        self.policy = on_nonfinite
        self.arena = Arena(place.device)
        self.bytes_read = 0
        self._memo: dict[tuple[int, int, int, torch.dtype], torch.Tensor] = {}
        self._raw: dict[tuple[int, int, int], Staging] = {}
        self._model_numel: dict[int, int] = {}
        self._below: Evaluator | None = None

    def below(self) -> Evaluator:
        """Return an evaluator for many small ranges within one of this one's, whose buffers stay as they are."""
        if self._below is None:
            self._below = Evaluator(self.place, self.policy)
        return self._below

    def begin(self) -> None:
        """Forget the last chunk; its buffers are used again."""
        self.arena.reset()
        self._memo.clear()
        self._raw.clear()

    def root(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Return elements that are to be written; those that no op has looked at are checked here."""
        value = self.value(node, start, stop, held, dtype)
        source = source_of(node)
        return value if source is None or self.policy != "error" else finite(self, source, value)

    def value(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Return elements start to stop of a node, flat, in the compute dtype. Must not be written to."""
        key = (id(node), start, stop, dtype)
        if key not in self._memo:
            self._memo[key] = self._compute(node, start, stop, held, dtype)
        return self._memo[key]

    def _compute(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        match node:
            case Source():
                return self._load(node, start, stop, dtype)
            case Rows():
                return self.aligned(node.node, start + node.start, stop + node.start, held, dtype)
            case Stacked():
                return stacked(self, node, start, stop, held, dtype)
            case Member():
                return held.whole[id(node)][start:stop]
            case Apply() if node.split is Split.TENSOR:
                return held.whole[id(node)][start:stop]
            case Apply() if node.split is Split.ROW:
                return self._rows(node, start, stop, held, dtype)
            case Apply():
                return self._apply(node, start, stop, held, dtype)
            case Agree():
                raise AssertionError("tensors without arithmetic are copied as bytes")
            case Emitted():
                raise AssertionError("what an op emits is stored, nothing is computed with it")

    def aligned(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Return a range that begins anywhere, cut out of one that begins where chunks may: see ALIGNED."""
        low = start // ALIGNED * ALIGNED
        high = min(-(-stop // ALIGNED) * ALIGNED, node.spec.numel)
        if isinstance(node, Source):
            low, high = start, stop  # what is only decoded is the same anywhere
        return self.value(node, low, high, held, dtype)[start - low : stop - low]

    def _load(self, node: Source, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        kept = self._raw.get((id(node), start, stop))
        staging = self._read(node, start, stop) if kept is None else kept
        out = self.arena.take(stop - start, dtype)
        tag = node.spec.dtype
        if self.place.stream is not None:
            decode(self.place.to_device(staging.raw, self.arena), tag, out)
        else:
            out.copy_(staging.typed(tag))  # what decode does, on a view that is made once
            if kept is None:
                self.arena.give_back_staging()  # the next input is read into the same cached bytes
        if self.policy == "zero":
            torch.nan_to_num_(out, nan=0.0, posinf=0.0, neginf=0.0)
        return out

    def raw(self, node: Source, start: int, stop: int) -> memoryview:
        """Return stored bytes of elements start to stop; until `begin`, `value` does not read them again."""
        self._raw[id(node), start, stop] = staging = self._read(node, start, stop)
        return staging.memory

    def _read(self, node: Source, start: int, stop: int) -> Staging:
        tag = node.spec.dtype
        staging = self.arena.staging(nbytes(stop - start, tag))
        node.checkpoint.read_into(node.spec.name, nbytes(start, tag), staging.memory)
        self.bytes_read += len(staging.memory)
        return staging

    def operand(self, node: Node, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Return a value as ops see it: float64 that another op chose to return is rounded."""
        value = self.value(node, start, stop, held, dtype)
        return value if value.dtype == dtype else value.to(dtype)

    def chunk(self, node: Apply, start: int, stop: int, held: Held, dtype: torch.dtype) -> EngineChunk:
        """Return what an op sees of elements start to stop."""
        models = [self.operand(child, start, stop, held, dtype) for child in node.models]
        base = None if node.base is None else self.operand(node.base, start, stop, held, dtype)
        beside = [self.operand(child, start, stop, held, dtype) for child in node.beside]
        told = self.signature(node), models, base, start, self.arena, draw_key(node), held.statistics(node)
        return EngineChunk(*told, beside)

    def sample(self, node: Apply, runs: list[tuple[int, int]], held: Held, dtype: torch.dtype) -> EngineChunk:
        """Return what an op sees of several short ranges, one after another."""
        joined = [self._joined(child, runs, held, dtype) for child in inputs_of(node)]
        self.begin()
        base = joined.pop(0) if node.base is not None else None
        models, beside = joined[: len(node.models)], joined[len(node.models) :]
        return EngineChunk(self.signature(node), models, base, 0, self.arena, None, beside=beside)

    def _joined(
        self, node: Node, runs: list[tuple[int, int]], held: Held, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return several ranges of a node one after another, in memory of their own."""
        lengths = [stop - start for start, stop in runs]
        out = torch.empty(sum(lengths), dtype=dtype, device=self.place.device)
        source = source_of(node)
        self.begin()
        if source is not None:
            _, skipped = below_rows(node)
            raw = self.arena.staging(nbytes(len(out), source.spec.dtype))
            self.read_runs(source, [start + skipped for start, _ in runs], lengths, raw.memory)
            on_device = raw.raw if self.place.stream is None else self.place.to_device(raw.raw, self.arena)
            decode(on_device, source.spec.dtype, out)
        else:
            for part, (start, stop) in zip(torch.split(out, lengths), runs, strict=True):
                self.begin()
                part.copy_(self.operand(node, start, stop, held, dtype))
                self.place.finish()
        self.place.finish()
        return out

    def read_runs(self, source: Source, starts: list[int], lengths: list[int], memory: memoryview) -> None:
        """Read short ranges of a tensor, to be decoded together."""
        at, tag = 0, source.spec.dtype
        for start, length in zip(starts, lengths, strict=True):
            size = nbytes(length, tag)
            source.checkpoint.read_into(source.spec.name, nbytes(start, tag), memory[at : at + size])
            at += size
        self.bytes_read += at

    def signature(self, node: Apply) -> Signature:
        """Return what an op is told of its tensor; a MODEL op is told the elements of the whole model."""
        scope: Scope | None = node.scope
        if scope is None:
            return node.signature
        if id(scope) not in self._model_numel:
            self._model_numel[id(scope)] = scope.numel
        return replace(node.signature, numel=self._model_numel[id(scope)])

    def _apply(self, node: Apply, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        x = self.chunk(node, start, stop, held, dtype)
        gathered = node.split in (Split.REDUCE, Split.MODEL)
        key = id(node.scope) if node.scope is not None else id(node)
        args = (x, node.params, held.found[key]) if gathered else (x, node.params)
        function = node.op.implementation.apply if gathered else node.op.implementation
        return on_range(self, node, x, function, args, looked_at=id(node) in held.looked_at)

    def _rows(self, node: Apply, start: int, stop: int, held: Held, dtype: torch.dtype) -> torch.Tensor:
        """Apply a ROW op to the rows that cover the range, and cut the range out of them."""
        row = max(node.op.row(node.signature.first), 1)
        x = self.rows(node, start // row, -(-stop // row), held, dtype)
        result = on_range(self, node, x, node.op.implementation, (x, node.params))
        return result[start - x.start : stop - x.start]

    def rows(self, node: Apply, first_row: int, last_row: int, held: Held, dtype: torch.dtype) -> EngineChunk:
        """Return what an op sees of whole rows, [rows, row]."""
        row = max(node.op.row(node.signature.first), 1)
        first, last = first_row * row, last_row * row
        # what lies below is computed on aligned ranges, whatever the length of a row
        low = first // ALIGNED * ALIGNED
        high = min(-(-last // ALIGNED) * ALIGNED, node.signature.first.numel)
        flat = self.chunk(node, low, high, held, dtype)
        inputs = [tensor[first - low : last - low].view(-1, row) for tensor in flat.inputs]
        base = None if flat.base is None else inputs.pop(0)
        models, beside = inputs[: len(node.models)], inputs[len(node.models) :]
        told = node.signature, models, base, first, self.arena, draw_key(node), held.statistics(node)
        return EngineChunk(*told, beside)

    def encoded(
        self,
        value: torch.Tensor,
        spec: TensorSpec,
        start: int,
        out: Staging,
    ) -> memoryview:
        """Return a value's bytes in the stored dtype, on the host in `out`, rounded once to the nearest.

        `start` is the index of its first element in the tensor. Raises OpError for numbers that are too large.
        """
        if self.place.stream is None:
            stored = out.typed(spec.dtype)
            store(value, spec.dtype, stored)
            if may_have_infinity(stored, spec.dtype, value.dtype):
                refuse_overflow(self, value, stored, spec, start)
        else:
            on_device = self.arena.take(len(out.memory), torch.uint8)
            if encode(value, spec.dtype, on_device):
                refuse_overflow(self, value, on_device.view(torch_dtype(spec.dtype)), spec, start)
            self.place.to_host(on_device, out.raw)
        return out.memory

    def encoded_new(self, value: torch.Tensor, spec: TensorSpec) -> memoryview:
        """Return a value's bytes in the stored dtype, in staging memory that lasts until `begin`."""
        return self.encoded(value, spec, 0, self.arena.staging(nbytes(value.numel(), spec.dtype)))
