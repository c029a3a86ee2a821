"""How a stored change is read: rows of numbers from stretches of the tensors that hold it. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.base import Checkpoint
from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


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

    @abstractmethod
    def decode(self, source: Checkpoint, first: int, last: int) -> Tensor:
        """Return rows first to last of the change, float32 [rows, row], reading no more than they need.

        Raises CheckpointError for codes that cannot be right.
        """


@dataclass(frozen=True, slots=True)
class Signs(Codec):
    """What delta.bits stores; `changed` is None where zeros were not kept."""

    spec: TensorSpec
    signs: TensorSpec
    scale: TensorSpec
    changed: TensorSpec | None = None

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the signs first."""
        return (self.signs, self.scale, *((self.changed,) if self.changed else ()))

    def decode(self, source: Checkpoint, first: int, last: int) -> Tensor:
        """Return rows first to last of the change."""
        from surgery_delta._signs import decoded

        return decoded(self, source, first, last)


@dataclass(frozen=True, slots=True)
class Groups(Codec):
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

    def decode(self, source: Checkpoint, first: int, last: int) -> Tensor:
        """Return rows first to last of the change."""
        from surgery_delta._groups import decoded

        return decoded(self, source, first, last)


@dataclass(frozen=True, slots=True)
class Entries(Codec):
    """What delta.sparse stores: row r has the entries starts[r] to starts[r + 1]."""

    spec: TensorSpec
    values: TensorSpec
    columns: TensorSpec
    starts: TensorSpec

    @property
    def parts(self) -> tuple[TensorSpec, ...]:
        """Return the values first."""
        return self.values, self.columns, self.starts

    def decode(self, source: Checkpoint, first: int, last: int) -> Tensor:
        """Return rows first to last of the change."""
        from surgery_delta._entries import decoded

        return decoded(self, source, first, last)
