"""Ops on several tensors of a model at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from surgery.ops.chunk import Chunk
from surgery.tensors import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


class Group(ABC):
    """An op on several tensors of one model at once: heads of a layer, experts of a layer."""

    @abstractmethod
    def key(self, tensor: TensorInfo, params: Any) -> Hashable | None:
        """Return what the members of a group have in common; None leaves the tensor as it is."""

    @abstractmethod
    def apply(self, members: Mapping[str, Chunk], params: Any) -> Mapping[str, Tensor]:
        """Return a tensor for every member's name, in the members' shapes or those that `infer` declares."""
