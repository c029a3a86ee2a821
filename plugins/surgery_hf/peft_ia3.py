"""(IA)³ (Liu et al. 2022, arXiv:2205.05638): a factor for each output of a Linear, or for each input of a feed-forward.

W' = diag(l)·W, b' = l·b        feed-forward: W' = W·diag(l)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.tensors import TensorSpec
from surgery_hf.peft_formula import Formula, Held, Reading
from surgery_hf.peft_module import Changes, DoesNotFit, Kind, Module, words

if TYPE_CHECKING:
    from torch import Tensor

_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class Scaled(Formula):
    """Rows of a tensor times one number each, or its columns."""

    factors: str
    columns: bool

    def parts(self) -> list[str]:
        """Return the factors."""
        return [self.factors]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the number of factors."""
        return specs[self.factors].numel

    def decode(self, reading: Reading) -> Held:
        """Return the factors as a vector."""
        return {"l": reading.whole(self.factors).flatten()}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Multiply."""
        W.mul_(held["l"] if self.columns else held["l"][first : first + len(W)].unsqueeze(1))


def changes(module: Module) -> Changes:
    """Return what becomes of a module; the shape of the factors tells outputs [out, 1] from inputs [1, in]."""
    (name,) = module.need(".ia3_l")
    if len(module.weight.shape) != _MATRIX:
        raise DoesNotFit(name, "(IA)³ of a convolution is not folded; merge it with peft")
    transposed = bool(module.said.get("fan_in_fan_out"))
    out, into = (module.columns, module.rows) if transposed else (module.rows, module.columns)
    if module.shape(name) == (out, 1):
        return Changes(Scaled(name, columns=transposed), Scaled(name, columns=False))
    if module.shape(name) == (1, into):
        return Changes(Scaled(name, columns=not transposed))
    raise module.refuse(name)


IA3: Final = Kind("IA3", (".ia3_l",), words("feedforward_modules init_ia3_weights fan_in_fan_out"), changes)
