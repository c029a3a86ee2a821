"""VeRA (Kopiczko, Blankevoort, Asano 2024, arXiv:2310.11454): two random matrices for all modules, vectors for each.

W' = W + diag(b)·B·diag(d)·A        A and B are the first columns and rows of the largest module's
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

_A: Final = "base_model.vera_A"
_B: Final = "base_model.vera_B"
_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class Projected(Formula):
    """What is added to a tensor: diag(b)·B·diag(d)·A, [out, in]; `transposed`: the tensor is [in, out]."""

    b: str  # [out]
    d: str  # [r]
    into: int
    transposed: bool

    def parts(self) -> list[str]:
        """Return both vectors and both matrices."""
        return [self.b, self.d, _A, _B]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of A's columns, of b, and of B's rows where they are the tensor's columns."""
        rank, out = specs[self.d].numel, specs[self.b].numel
        return rank * self.into + out + (rank * out if self.transposed else 0)

    def decode(self, reading: Reading) -> Held:
        """Return diag(d)·A and b; of a transposed tensor both factors whole."""
        A = reading.whole(_A)[:, : self.into].mul(reading.whole(self.d).unsqueeze(1))
        b = reading.whole(self.b)
        if not self.transposed:
            return {"right": A, "b": b}
        B = reading.rows(_B, 0, len(b)).mul_(b.unsqueeze(1))
        return {"right": B.T.contiguous(), "left": A.T.contiguous()}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Add rows of the product."""
        last = first + len(W)
        if self.transposed:
            left = held["left"][first:last]
        else:
            left = reading.rows(_B, first, last).mul_(held["b"][first:last].unsqueeze(1))
        W.add_(left @ held["right"])


def changes(module: Module) -> Changes:
    """Return what is added to a module's weight."""
    b, d = module.need(".vera_lambda_b", ".vera_lambda_d")
    if _A not in module.specs or _B not in module.specs:
        what = "the adapter was saved without its random matrices, which are not made again here"
        raise DoesNotFit(b, f"{what}; save it with `save_projection: true`")
    if len(module.weight.shape) != _MATRIX:
        raise module.refuse(b)
    transposed = bool(module.said.get("fan_in_fan_out"))
    out, into = (module.columns, module.rows) if transposed else (module.rows, module.columns)
    if module.shape(b) != (out,):
        raise module.refuse(b)
    (rank,) = module.shape(d)
    if module.shape(_A)[:1] != (rank,) or module.shape(_B)[1:] != (rank,) or len(module.shape(_A)) != _MATRIX:
        what = f"shapes {module.shape(_A)} and {module.shape(_B)} of the random matrices for rank {rank}"
        raise DoesNotFit(_A, f"has {what}; save the adapter again")
    if module.shape(_A)[1] < into or module.shape(_B)[0] < out:
        raise module.refuse(_A)
    return Changes(Projected(b, d, into, transposed))


VERA: Final = Kind(
    "VERA",
    (".vera_lambda_b", ".vera_lambda_d"),
    words("r projection_prng_key save_projection vera_dropout d_initial fan_in_fan_out init_weights"),
    changes,
    shared=(_A, _B),
)
