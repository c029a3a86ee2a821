"""What an op sees: one range of every input, a buffer for the result, scratch, and reproducible draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch

from surgery.companion import Beside, arranged
from surgery.errors import PluginError
from surgery.execute.arena import Arena
from surgery.math.random import keep, stream_key, uniform
from surgery.ops import Signature

_NONE: Final[Mapping[str, torch.Tensor]] = MappingProxyType({})


class EngineChunk:
    """The engine's Chunk: inputs are views of its buffers, `out` and scratch come from the worker's arena."""

    __slots__ = (
        "_arena",
        "_draws",
        "_key",
        "_note",
        "_out",
        "_scratch",
        "base",
        "beside",
        "companions",
        "inputs",
        "models",
        "shape",
        "signature",
        "start",
        "statistics",
    )

    def __init__(
        self,
        signature: Signature,
        models: Sequence[torch.Tensor],
        base: torch.Tensor | None,
        start: int,
        arena: Arena,
        key: tuple[int, str, int] | None,
        statistics: Mapping[str, torch.Tensor] = _NONE,
        beside: Sequence[torch.Tensor] = (),
        note: Callable[[str, float], None] | None = None,
    ) -> None:
        """`key` is (seed, op, its version), which draws depend on; None for a sample, whose elements have no index.

        `beside` are the companions that are there, in the order of the signature's; `note` takes numbers about whole
        tensors.
        """
        self.signature = signature
        self.models = models
        self.base = base
        self.start = start
        self.statistics = statistics
        self._arena = arena
        self._key = key
        self._note = note
        self._out: torch.Tensor | None = None
        self._draws: torch.Tensor | None = None
        self._scratch: dict[int, torch.Tensor] = {}
        self.beside = beside
        self.companions: Beside[torch.Tensor] = arranged(signature.companions, beside)
        self.inputs = [*models, *beside] if base is None else [base, *models, *beside]  # the base first
        self.shape = self.inputs[0].shape

    def move(self, start: int, inputs: list[torch.Tensor]) -> None:
        """Show another range of the same inputs (base, models, companions); buffers and parameters stay."""
        self.start = start
        self.inputs = inputs
        if self.beside:
            models = len(inputs) - len(self.beside)
            inputs, self.beside = inputs[:models], inputs[models:]
            self.companions = arranged(self.companions, self.beside)
        self.models = inputs if self.base is None else inputs[1:]
        if self.base is not None:
            self.base = inputs[0]

    @property
    def dtype(self) -> torch.dtype:
        """Return the compute dtype."""
        return self.inputs[0].dtype

    @property
    def device(self) -> torch.device:
        """Return where the inputs are."""
        return self.inputs[0].device

    def writes(self) -> list[int]:
        """Return how often each input has been written to since it was made."""
        return [tensor._version for tensor in self.inputs]

    @property
    def made(self) -> torch.Tensor | None:
        """Return the buffer for the result, if the op has asked for it."""
        return self._out

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
        key = self._stream(stream)
        if self._draws is None:
            self._draws = self._buffer()
        return uniform(key, self.start, self._draws)

    def keep(self, probability: float, stream: int = 0) -> torch.Tensor:
        """Return which elements are kept, each with this probability, as bool."""
        out = torch.empty(self.shape, dtype=torch.bool, device=self.device)
        return keep(self._stream(stream), self.start, probability, out)

    def _stream(self, stream: int) -> bytes:
        if self._key is None:
            what = "draws in a sampling pass, whose elements have no index"
            raise PluginError(f"{self.signature.name}: the op {what}; let it scan all")
        seed, op, version = self._key
        return stream_key(seed, op, self.signature.name, stream, version)

    def note(self, name: str, number: float) -> None:
        """Note a finite number about a tensor that is seen whole."""
        if self._note is None:
            what = f"notes `{name}` of a part of the tensor"
            raise PluginError(f"{self.signature.name}: the op {what}; see whole tensors, or define `notes`")
        self._note(name, number)

    def _buffer(self) -> torch.Tensor:
        flat = self._arena.take(self.shape.numel(), self.dtype)
        return flat if len(self.shape) == 1 else flat.view(self.shape)
