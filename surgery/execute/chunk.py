"""What an op sees: one range of every input, a buffer for the result, scratch, and reproducible draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from surgery.execute.arena import Arena
from surgery.math.random import stream_key, uniform
from surgery.ops import Signature


class EngineChunk:
    """The engine's Chunk: inputs are views of its buffers, `out` and scratch come from the worker's arena."""

    __slots__ = ("_arena", "_key", "_out", "_scratch", "base", "models", "shape", "signature", "start")

    def __init__(
        self,
        signature: Signature,
        models: Sequence[torch.Tensor],
        base: torch.Tensor | None,
        start: int,
        arena: Arena,
        key: tuple[int, str, int],
    ) -> None:
        self.signature = signature
        self.models = models
        self.base = base
        self.start = start
        self._arena = arena
        self._key = key
        self._out: torch.Tensor | None = None
        self._scratch: dict[int, torch.Tensor] = {}
        self.shape = models[0].shape if models else base.shape  # type: ignore[union-attr]

    @property
    def out(self) -> torch.Tensor:
        """A buffer of the chunk's shape and compute dtype."""
        if self._out is None:
            self._out = self._buffer()
        return self._out

    def scratch(self, index: int) -> torch.Tensor:
        """Return the op's scratch buffer `index`, shaped like `out`."""
        if index not in self._scratch:
            self._scratch[index] = self._buffer()
        return self._scratch[index]

    def uniform(self, stream: int = 0) -> torch.Tensor:
        """Return draws in [0, 1), a function of (seed, op, tensor name, stream, element index) alone."""
        seed, op, version = self._key
        key = stream_key(seed, op, self.signature.name, stream, version)
        return uniform(key, self.start, self._buffer())

    def _buffer(self) -> torch.Tensor:
        like = self.models[0] if self.models else self.base
        assert like is not None
        return self._arena.take(like.numel(), like.dtype).view(self.shape)
