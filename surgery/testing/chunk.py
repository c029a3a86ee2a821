"""What an op sees, kept in memory: the plainest `Chunk` that fulfils the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surgery.companion import Beside, arranged, flat
from surgery.errors import OpError, PluginError
from surgery.math.random import keep, stream_key, uniform
from surgery.notes import take_note
from surgery.ops import SAMPLE_RUN, SAMPLE_RUNS, Op, Signature


@dataclass(slots=True)
class MemoryChunk:
    """A range of every input. Buffers hold NaN until the op writes to them: reading one first shows."""

    signature: Signature
    models: Sequence[Tensor]
    base: Tensor | None
    start: int
    op: Op
    seed: int = 0
    sampled: bool = False
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    companions: Beside[Tensor] = field(default_factory=dict)
    noted: dict[str, float] | None = None  # None: it is a part of a tensor
    _buffers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def like(self) -> Tensor:
        """Return an input, for its shape, dtype and device."""
        return self.models[0] if self.base is None else self.base

    @property
    def out(self) -> Tensor:
        """A buffer of the chunk's shape and compute dtype."""
        return self._buffer(-1)

    def scratch(self, index: int) -> Tensor:
        """Return scratch buffer `index`; PluginError if the op declared fewer."""
        if not 0 <= index < self.op.buffers:
            raise PluginError(
                f"op `{self.op.name}`: asks for scratch buffer {index}, declares buffers={self.op.buffers}; "
                "declare as many as it uses"
            )
        return self._buffer(index)

    def uniform(self, stream: int = 0) -> Tensor:
        """Return draws in [0, 1), a function of (seed, op, tensor name, stream, element index) alone."""
        return uniform(self._stream(stream), self.start, self._buffer(-2))

    def keep(self, probability: float, stream: int = 0) -> Tensor:
        """Return which elements are kept, each with this probability, as bool."""
        out = torch.empty(self.like.shape, dtype=torch.bool, device=self.like.device)
        return keep(self._stream(stream), self.start, probability, out)

    def note(self, name: str, number: float) -> None:
        """Note a finite number about a tensor that is seen whole."""
        op = f"op `{self.op.name}`"
        if self.noted is None:
            what = f"notes `{name}` of a part of the tensor"
            raise PluginError(f"{op}: {what}; see whole tensors, or define `notes`")
        if wrong := take_note(self.noted, name, number):
            raise OpError(f"{op}: {wrong} on {self.signature.name}; mend it")

    def _stream(self, stream: int) -> bytes:
        if self.sampled:
            raise PluginError(
                f"op `{self.op.name}`: draws in a sampling pass, whose elements have no index; scan ALL"
            )
        return stream_key(self.seed, self.op.name, self.signature.name, stream, self.op.version)

    def _buffer(self, index: int) -> Tensor:
        if index not in self._buffers:
            self._buffers[index] = torch.full_like(self.like, float("nan"))
        return self._buffers[index]


def whole_shape(chunk: MemoryChunk) -> torch.Size:
    """Return the shape that the op sees."""
    return chunk.like.shape


def reshaped(chunk: MemoryChunk, shape: tuple[int, ...]) -> MemoryChunk:
    """Return a view of the whole tensor in another shape; of an empty one flat, for it has no rows."""
    shape = shape if chunk.like.numel() else (-1,)
    return _with(chunk, lambda x: x.reshape(shape))


def cut(chunk: MemoryChunk, start: int, stop: int) -> MemoryChunk:
    """Return the elements or rows from `start` to `stop`, with buffers of their own."""
    part = _with(chunk, lambda x: x[start:stop])
    part.start = chunk.start + start * (chunk.like[0].numel() if chunk.like.numel() else 1)
    return part


def sample(chunk: MemoryChunk) -> MemoryChunk:
    """Return what a sampling pass sees of a flat whole tensor: runs of neighbours, spread evenly over it."""
    numel = chunk.like.numel()
    if numel <= SAMPLE_RUNS * SAMPLE_RUN:
        starts, length = [0], numel
    else:
        starts, length = (
            [i * (numel - SAMPLE_RUN) // (SAMPLE_RUNS - 1) for i in range(SAMPLE_RUNS)],
            SAMPLE_RUN,
        )

    def taken(x: Tensor) -> Tensor:
        return torch.cat([x[start : start + length] for start in starts])

    part = _with(chunk, taken)
    part.sampled = True
    return part


def _with(chunk: MemoryChunk, change: Callable[[Tensor], Tensor]) -> MemoryChunk:
    """Return the chunk with every input changed, and with buffers of its own."""
    base = None if chunk.base is None else change(chunk.base)
    told = chunk.start, chunk.op, chunk.seed
    beside = arranged(chunk.companions, map(change, flat(chunk.companions)))
    models = [change(model) for model in chunk.models]
    return MemoryChunk(chunk.signature, models, base, *told, statistics=chunk.statistics, companions=beside)
