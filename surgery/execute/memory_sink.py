"""Tensors kept in memory as jobs make them: what a Sink and its Writings are for files."""

from __future__ import annotations

import torch

from surgery.math.convert import torch_dtype
from surgery.tensors import DTYPES, TensorSpec


class MemorySink:
    """Receives tensors from several workers at once."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[TensorSpec, torch.Tensor]] = {}

    def begin(self, spec: TensorSpec) -> MemoryWriting:
        """Make room for a tensor."""
        raw = torch.empty(spec.nbytes, dtype=torch.uint8)
        self._made[spec.name] = (spec, raw)
        return MemoryWriting(raw)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what was received, in the dtypes in which it would be stored."""
        return {name: _shaped(spec, raw) for name, (spec, raw) in self._made.items()}


class MemoryWriting:
    """A tensor being received."""

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw

    def stretch(self, start: int) -> MemoryStretch:
        """Begin writing from a byte on."""
        return MemoryStretch(self.raw, start)


class MemoryStretch:
    """Consecutive bytes of a tensor, from one worker."""

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: torch.Tensor, start: int) -> None:
        self._raw, self._at = raw, start

    def write(self, data: memoryview) -> None:
        """Take bytes that follow the last ones."""
        if data:
            self._raw[self._at : self._at + len(data)] = torch.frombuffer(data, dtype=torch.uint8)
            self._at += len(data)

    def close(self) -> bool:
        """End the stretch; nobody waits for the tensor."""
        return False


def _shaped(spec: TensorSpec, raw: torch.Tensor) -> torch.Tensor:
    values = raw.view(torch_dtype(spec.dtype))
    # torch counts pairs of 4-bit numbers
    return values.view(spec.shape) if DTYPES[spec.dtype].bits >= 8 else values.view(*spec.shape[:-1], -1)
