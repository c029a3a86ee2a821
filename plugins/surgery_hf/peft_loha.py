"""LoHa (Hyeon-Woo, Ye-Bin, Oh 2022, FedPara, arXiv:2108.06098): two low-rank products, multiplied entry by entry.

W' = W + s·(A1·B1) ⊙ (A2·B2)        of a convolution: Σij T[i, j, k, l]·A[i, p]·B[j, r] at [p, r, k, l]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.tensors import TensorSpec
from surgery_hf.peft_formula import Formula, Held, Reading
from surgery_hf.peft_module import Changes, DoesNotFit, Kind, Module, words

if TYPE_CHECKING:
    from torch import Tensor

_PAIRS: Final = ((".hada_w1_a", ".hada_w1_b"), (".hada_w2_a", ".hada_w2_b"))
_CORES: Final = (".hada_t1", ".hada_t2")


@dataclass(frozen=True, slots=True)
class Hadamard(Formula):
    """What is added to a tensor: the entrywise product of two products; with `cores` each has three factors."""

    pairs: tuple[tuple[str, str], tuple[str, str]]
    scale: float
    cores: tuple[str, str] | None = None

    def parts(self) -> list[str]:
        """Return all factors."""
        return [name for pair in self.pairs for name in pair] + list(self.cores or ())

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of what is not read by rows."""
        names = self.parts() if self.cores else [right for _, right in self.pairs]
        return sum(specs[name].numel for name in names)

    def decode(self, reading: Reading) -> Held:
        """Return the right factors; with cores all of them."""
        names = self.parts() if self.cores else [right for _, right in self.pairs]
        return {name: reading.whole(name) for name in names}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Add the rows of the product."""
        one, two = (self._rows(index, first, first + len(W), held, reading) for index in (0, 1))
        W.add_(one.mul_(two), alpha=self.scale)

    def _rows(self, index: int, first: int, last: int, held: Held, reading: Reading) -> Tensor:
        import torch

        left, right = self.pairs[index]
        if self.cores is None:
            return reading.rows(left, first, last) @ held[right]
        core = held[self.cores[index]]
        return torch.einsum("ijkl,ip,jr->prkl", core, held[left][:, first:last], held[right]).flatten(1)


def changes(module: Module) -> Changes:
    """Return what is added to a module's weight."""
    one, two = (module.need(*pair) for pair in _PAIRS)
    cores = module.need(*_CORES) if any(core in module.parts for core in _CORES) else [None, None]
    rank = module.scales.rank_of(module.name)
    for (left, right), core in zip((one, two), cores, strict=True):
        a, b = module.shape(left), module.shape(right)
        kernel = module.shape(core)[2:] if core else ()
        if (a[::-1] if core else a) != (module.rows, rank):
            what = f"has shape {a}, the config says rank {rank} and the base {module.rows} rows"
            raise DoesNotFit(left, f"{what}; fold it into the base that it was trained on")
        if len(b) != len(a) or b[0] != rank or math.prod((b[1], *kernel)) != module.columns:
            raise module.refuse(right)
        if core and module.shape(core)[:2] != (rank, rank):
            raise module.refuse(core)
    scale = module.scales.scale_of(module.name)
    both = (cores[0], cores[1]) if cores[0] and cores[1] else None
    return Changes(Hadamard(((one[0], one[1]), (two[0], two[1])), scale, both))


LOHA: Final = Kind(
    "LOHA",
    (*_PAIRS[0], *_PAIRS[1], *_CORES),
    words("rank_dropout module_dropout use_effective_conv2d init_weights"),
    changes,
    scaled=True,
)
