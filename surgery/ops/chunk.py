"""What an op sees while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from surgery.companion import Beside
from surgery.ops.signature import Signature

if TYPE_CHECKING:
    from torch import Tensor


class Chunk(Protocol):
    """What an op sees: the same range of every input. Inputs are read-only, `out` and scratch are the op's."""

    signature: Signature
    models: Sequence[Tensor]
    base: Tensor | None
    start: int  # index in the tensor of the first element seen
    statistics: Mapping[str, Tensor]  # what the op needs, by `Need`
    companions: Beside[Tensor]  # what stands beside each of `models`, by name; None where there is nothing

    @property
    def out(self) -> Tensor:
        """A buffer of the chunk's shape and compute dtype; returning it saves an allocation and a copy."""
        ...

    def scratch(self, index: int) -> Tensor:
        """Return the op's scratch buffer `index` (below the `buffers` it declared), shaped like `out`."""
        ...

    def uniform(self, stream: int = 0) -> Tensor:
        """Return draws in [0, 1), a function of (seed, op, tensor name, stream, element index) alone.

        The buffer is the same for every call on a chunk: use the draws before asking for more.
        """
        ...

    def keep(self, probability: float, stream: int = 0) -> Tensor:
        """Return which elements are kept, each with this probability: bool, the caller's, and drawn as `uniform` is.

        Three times as fast as comparing uniform draws, and other draws than those.
        """
        ...

    def note(self, name: str, number: float) -> None:
        """Note a finite number about a tensor that is seen whole (TENSOR, GROUP), such as an error.

        `name` is of letters and underscores, and new in the call. The report of a run tells it beside the tensor.
        """
        ...
