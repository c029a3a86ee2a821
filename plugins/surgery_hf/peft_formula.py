"""How an adapter changes a tensor: a formula on blocks of its rows, and what it holds between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from surgery.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

Held = Mapping[str, "Tensor"]
"""What a formula keeps decoded, by names of its own."""


class Reading(Protocol):
    """What a formula may read, in the dtype of the fold and in memory of its own: the adapter, and what it changes."""

    def whole(self, name: str) -> Tensor:
        """Return a tensor in its shape."""
        ...

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Return rows `first` to `last` of a tensor, [rows, row]."""
        ...

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the tensor that is changed as it was, in blocks of rows: the first row of each, and [rows, row]."""
        ...


class Formula(ABC):
    """A change of a tensor that can be computed a block of rows at a time."""

    __slots__ = ()

    @abstractmethod
    def parts(self) -> list[str]:
        """Return the adapter's tensors that it is computed from, the one that messages name first."""

    @abstractmethod
    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements that `decode` returns; `specs` are the adapter's tensors."""

    @abstractmethod
    def decode(self, reading: Reading) -> Held:
        """Return what every block needs."""

    @abstractmethod
    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Change a block of rows [rows, row] in place; it begins at row `first` of the tensor."""
