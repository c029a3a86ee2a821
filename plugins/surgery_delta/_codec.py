"""How a stored change is read: rows of numbers from stretches of the tensors that hold it. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.base import Checkpoint
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

Held = Mapping[str, "Tensor"]
"""What a codec needs for every block of a tensor, decoded once: small beside the tensor."""


class Codec(ABC):
    """One tensor's change; a frozen dataclass, whose `repr` holds everything that decoding depends on but the bytes.

    `spec` is the tensor in the base.
    """

    __slots__ = ()

    spec: TensorSpec

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the stored tensors, the largest first."""

    @property
    def held(self) -> int:
        """Return how many numbers `begin` returns at most."""
        return 0

    def begin(self, source: Checkpoint, base: Checkpoint) -> Held:
        """Return what `onto` needs for every block; `base` is what the change is of."""
        return {}

    @abstractmethod
    def onto(self, rows: Tensor, source: Checkpoint, first: int, held: Held) -> Tensor:
        """Return rows of the base, [rows, row] from row `first` on, as they are changed; may change them in place.

        Reads no more than they need. Raises CheckpointError for codes that cannot be right.
        """


class Added(Codec):
    """A change that is added to the base, and so the same for any base."""

    __slots__ = ()

    def onto(self, rows: Tensor, source: Checkpoint, first: int, held: Held) -> Tensor:
        """Return rows of the base with the change added, in place."""
        return rows.add_(self.decode(source, first, first + len(rows), held))

    @abstractmethod
    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change, float32 [rows, row], reading no more than they need.

        Raises CheckpointError for codes that cannot be right.
        """


@dataclass(frozen=True, slots=True)
class Signs(Added):
    """What delta.bits stores; `changed` is None where zeros were not kept."""

    spec: TensorSpec
    signs: TensorSpec
    scale: TensorSpec
    changed: TensorSpec | None = None

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the signs first."""
        return (self.signs, self.scale, *((self.changed,) if self.changed else ()))

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change."""
        from surgery_delta._signs import decoded

        return decoded(self, source, first, last)


@dataclass(frozen=True, slots=True)
class Groups(Added):
    """What delta.quantize stores: codes of `bits` bits, `size` of them with one scale."""

    spec: TensorSpec
    codes: TensorSpec
    scale: TensorSpec
    bits: int
    size: int

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the codes first."""
        return self.codes, self.scale

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change."""
        from surgery_delta._groups import decoded

        return decoded(self, source, first, last)


@dataclass(frozen=True, slots=True)
class Entries(Added):
    """What delta.sparse stores: row r has the entries starts[r] to starts[r + 1]."""

    spec: TensorSpec
    values: TensorSpec
    columns: TensorSpec
    starts: TensorSpec

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the values first."""
        return self.values, self.columns, self.starts

    def decode(self, source: Checkpoint, first: int, last: int, held: Held) -> Tensor:
        """Return rows first to last of the change."""
        from surgery_delta._entries import decoded

        return decoded(self, source, first, last)


def floats(source: Checkpoint, spec: TensorSpec, first: int, last: int, row: int | None = None) -> Tensor:
    """Return rows first to last of a stored tensor in float32 [rows, row]; rows of `row` elements, or its own."""
    import torch

    from surgery.math.stretch import stretch

    row = row or spec.row
    flat = stretch(source, spec, first * row, (last - first) * row)
    return flat.to(torch.float32).view(last - first, row)


def whole(source: Checkpoint, spec: TensorSpec) -> Tensor:
    """Return a stored tensor in float32, in its shape."""
    return floats(source, spec, 0, 1, spec.numel).view(spec.shape)
