"""What Linears see: sums over tokens, taken where torch multiplies by a weight that is watched.

Watched is the call (`torch.nn.functional.linear`), not the module: the experts of a layer are often one parameter,
each call of which takes a part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode

from surgery.ops import Need

Sums = dict[
    str, dict[str, torch.Tensor]
]  # by parameter, then by `Need`; float64 [experts, in], [experts, 1] and [experts, in, in]

_TOKENS: Final = 256  # tokens squared or multiplied at a time in float64


@dataclass(frozen=True, slots=True)
class Watched:
    """A weight whose inputs are summed: its name, and how many experts' matrices [out, in] it holds."""

    name: str
    experts: int
    matrix: int
    features: int


class Watch(TorchFunctionMode):
    """Sums what watched weights are multiplied by, for one sample in one thread.

    `needs` are what is summed besides squares and tokens. `enough`: stop the model, by raising `Seen`, when every
    weight has been seen, before the last is multiplied.
    """

    def __init__(
        self, watched: Mapping[int, Watched], needs: Collection[Need] = (), *, enough: bool = False
    ) -> None:
        super().__init__()
        self._last: tuple[torch.Tensor, int, torch.Tensor] | None = None
        self._watched = watched
        self._enough = enough
        self._left = {entry.name for entry in watched.values()}
        self.sums: Sums = {entry.name: zeros(entry, needs) for entry in watched.values()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at a call into torch on its way."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear:
            given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
            self._look(given["input"], given["weight"])
        return func(*args, **kwargs)

    def _look(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        entry = self._watched.get(weight.untyped_storage().data_ptr())
        if entry is None or weight.stride() != (entry.features, 1):
            return
        expert = weight.storage_offset() // entry.matrix
        rows = x.detach().reshape(-1, entry.features)
        sums = self.sums[entry.name]
        for part in torch.split(rows, _TOKENS):
            sums[Need.SQUARES][expert] += part.to(torch.float64).square_().sum(0).cpu()
        sums[Need.TOKENS][expert] += len(rows)
        if Need.GRAM in sums:
            sums[Need.GRAM][expert] += self._gram(x, rows)
        self._left.discard(entry.name)
        if self._enough and not self._left:
            raise Seen

    def _gram(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return XᵀX in float64; weights that read one tensor, as queries, keys and values do, share it."""
        if self._last is not None and self._last[0] is x and self._last[1] == x._version:
            return self._last[2]
        total = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        for part in torch.split(rows, _TOKENS):
            wide = part.to(torch.float64)
            total.addmm_(wide.T, wide)
        self._last = x, x._version, total.cpu()
        return self._last[2]


class Seen(Exception):
    """All that is watched has been seen."""


def zeros(entry: Watched, needs: Collection[Need] = ()) -> dict[str, torch.Tensor]:
    """Return sums over no tokens: squares and tokens, which are small, and of what is large what is needed."""
    shapes: dict[Need, tuple[int, ...]] = {Need.SQUARES: (entry.features,), Need.TOKENS: (1,)}
    if Need.GRAM in needs:
        shapes[Need.GRAM] = (entry.features, entry.features)
    return {need: torch.zeros(entry.experts, *shape, dtype=torch.float64) for need, shape in shapes.items()}


def watched(name: str, weight: torch.Tensor) -> tuple[int, Watched]:
    """Return how a weight [out, in] or [experts, out, in] is known, and what is to be summed."""
    experts = len(weight) if weight.dim() == 3 else 1
    matrix = weight.shape[-1] * weight.shape[-2]
    return weight.untyped_storage().data_ptr(), Watched(name, experts, matrix, weight.shape[-1])


class Adding:
    """How the samples' sums are added up: in their order."""

    def fold(self, total: Sums, part: Sums) -> Sums:
        """Add a sample's sums to the total, in place."""
        for name, sums in part.items():
            for need, values in sums.items():
                total[name][need] += values
        return total
