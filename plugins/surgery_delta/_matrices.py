"""Tensors as matrices: one, a convolution's [out, in·kh·kw], or those of a stack, one for each expert. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from surgery.ops import Signature
from surgery.targets import is_stack
from surgery.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Matrices:
    """How many matrices a tensor is, and their shape; of a stack's tensors what is stored begins with `lead`."""

    count: int
    rows: int
    columns: int
    stacked: bool

    @classmethod
    def of(cls, spec: TensorSpec, *, stacked: bool) -> Self:
        """Return the matrices of a tensor."""
        if stacked:
            count, rows = spec.shape[:2]
            return cls(count, rows, spec.row // rows, stacked)
        return cls(1, spec.shape[0], spec.row, stacked)

    @classmethod
    def in_call(cls, signature: Signature) -> Self:
        """Return the matrices of a call's tensor."""
        return cls.of(signature.first, stacked=is_stack(signature))

    @property
    def lead(self) -> tuple[int, ...]:
        """Return the dimension that the experts of a stack are told apart by."""
        return (self.count,) if self.stacked else ()

    def stretches(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield for rows first to last of the tensor which matrix, and which of its rows."""
        if self.stacked:
            yield from ((index, 0, self.rows) for index in range(first, last))
        else:
            yield 0, first, last

    def names(self, name: str) -> list[str]:
        """Return what the matrices of a tensor are called."""
        return [f"{name}[{index}]" for index in range(self.count)] if self.stacked else [name]
