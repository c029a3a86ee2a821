"""Ops that gather before they apply, and what a gather sees of a tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final

from surgery.ops.chunk import Chunk
from surgery.ops.kinds import Scan
from surgery.ops.signature import Signature

if TYPE_CHECKING:
    from torch import Tensor

# Gathers see a tensor in blocks of this many elements, aligned to its first element, whatever the chunk size,
# thread count or device: sums of floats then come out the same to the last bit. Changing it changes bytes.
BLOCK: Final = 1 << 17

# What a sampling pass sees of a large tensor: this many runs of this many elements, one in each of
# as many equal parts. Many short runs: the rows of a matrix may differ in scale.
SAMPLE_RUNS: Final = 256
SAMPLE_RUN: Final = 256


class Reduce(ABC):
    """An op that gathers something small over its tensor (or model), then applies it range by range.

    The engine runs `found = None; while scan(...): found = solve(fold of gather(...))`, then `apply` with `found`.
    """

    gathers: int = 1

    def scan(self, signature: Signature, params: Any, found: Any, done: int) -> Scan | None:
        """Say what gather pass `done` reads, None to start applying."""
        return Scan.ALL if done < self.gathers else None

    @abstractmethod
    def gather(self, x: Chunk, params: Any, found: Any) -> Any:
        """Return what one block of at most BLOCK elements contributes; must not keep references to `x`."""

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total; called in the order of the blocks. May change `total` in place."""
        return total + part

    def solve(self, signature: Signature, params: Any, total: Any, found: Any) -> Any:
        """Turn a pass's total into what the next pass, or `apply`, needs."""
        return total

    def rests_on(self, signature: Signature, params: Any) -> Hashable | None:
        """Return the parameters that decide, beside the inputs, what is found; None: all of them.

        A search that varies other parameters then gathers once. What is found must not change in `apply`.
        """
        return None

    def notes(self, signature: Signature, params: Any, found: Any) -> Mapping[str, float]:
        """Return finite numbers about what was found, by name, for the report: see `Chunk.note`.

        Asked once for each tensor, and not where nothing was found (None).
        """
        return {}

    @abstractmethod
    def apply(self, x: Chunk, params: Any, found: Any) -> Tensor:
        """Return the result on a range of the tensor."""
