"""LoRA (Hu et al. 2021, arXiv:2106.09685) and DoRA (Liu et al. 2024, arXiv:2402.09353) of one tensor.

W' = W + s·B·A        V = W + s·B·A;  W' = m/‖V‖·V, output by output (DoRA, equation 5)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.tensors import TensorSpec
from surgery_hf.peft_formula import Formula, Held, Reading

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Update(Formula):
    """What is added to a tensor: scale·B·A of adapter tensors `a` [r, in] and `b` [out, r].

    `transposed`: (scale·B·A)ᵀ. Without `a`, `b` [out] itself is added, scaled. `magnitude` (DoRA): each row of the sum,
    of a transposed one each column, is then scaled to that length. Rows of B are read as they are needed.
    """

    b: str
    scale: float
    a: str | None = None
    transposed: bool = False
    magnitude: str | None = None

    def parts(self) -> list[str]:
        """Return A, B and the magnitudes."""
        return [part for part in (self.a, self.b, self.magnitude) if part is not None]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of A and the magnitudes; of B too, where its columns are the tensor's rows."""
        kept = (self.a, self.magnitude, self.b if self.transposed else None)
        return sum(specs[part].numel for part in kept if part)

    def decode(self, reading: Reading) -> Held:
        """Return `right` [r, row], `left` [rows, r] if it is not to be read by rows, and `magnitude` [rows].

        Of columns that are given a length, `columns` is what each is multiplied by; the whole sum is looked at for it.
        """
        held = {"magnitude": reading.whole(self.magnitude).view(-1)} if self.magnitude else {}
        if self.a is None:
            return held
        A = reading.whole(self.a).flatten(1)
        if not self.transposed:
            return {**held, "right": A}
        B = reading.whole(self.b).flatten(1).mul_(self.scale)
        left, right = A.T.contiguous(), B.T.contiguous()
        if not held:
            return {"right": right, "left": left}
        lengths = _column_lengths(reading, left, right)
        return {"right": right, "left": left, "columns": (held["magnitude"].double() / lengths).to(A.dtype)}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Add the product, then give every row or column its length. Lengths are found in float64."""
        import torch

        last = first + len(W)
        whole = held.get("left")
        left = reading.rows(self.b, first, last).mul_(self.scale) if whole is None else whole[first:last]
        W.add_(left @ held["right"] if "right" in held else left)
        if "magnitude" in held:
            lengths = torch.linalg.vector_norm(W, dim=1, dtype=torch.float64)
            W.mul_((held["magnitude"][first:last].double() / lengths).to(W.dtype).unsqueeze(1))
        if "columns" in held:
            W.mul_(held["columns"])


def _column_lengths(reading: Reading, left: Tensor, right: Tensor) -> Tensor:
    """Return the lengths of the columns of W + left·right, summed in float64 block by block."""
    squares = right.new_zeros(right.shape[1]).double()
    for first, W in reading.blocks():
        squares += W.add_(left[first : first + len(W)] @ right).double().square_().sum(0)
    return squares.sqrt_()
