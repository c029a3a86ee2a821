"""HRA (Yuan et al. 2024, arXiv:2405.17484): inputs reflected, r times.

W' = W·(I - 2u₁u₁ᵀ)···(I - 2uᵣuᵣᵀ), |u| = 1        orthogonalized first (`apply_GS`): W' = W·(I - 2UUᵀ)
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


@dataclass(frozen=True, slots=True)
class Reflected(Formula):
    """Every row reflected at the planes across the columns of `normals` [in, r]."""

    normals: str
    orthogonal: bool

    def parts(self) -> list[str]:
        """Return the normals."""
        return [self.normals]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of the normals."""
        return specs[self.normals].numel

    def decode(self, reading: Reading) -> Held:
        """Return normals of length one [in, r], found in float64; orthogonal to each other if so asked."""
        import torch

        stored = reading.whole(self.normals)
        U = stored.double()
        # Gram-Schmidt and QR differ by signs, of which UUᵀ knows nothing.
        U = torch.linalg.qr(U).Q if self.orthogonal else U / U.norm(dim=0)
        return {"U": U.to(stored.dtype)}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Reflect rows, one normal after the other, or at all of them at once."""
        U = held["U"]
        step = U.shape[1] if self.orthogonal else 1
        for at in range(0, U.shape[1], step):
            normals = U[:, at : at + step]
            W.sub_((W @ normals) @ normals.mT, alpha=2)


def changes(module: Module) -> Changes:
    """Return how a module's weight is reflected."""
    (name,) = module.need(".hra_u")
    into, rank = module.shape(name)
    if into != module.columns:
        raise module.refuse(name)
    if rank != module.said.get("r"):
        what = f"has {rank} columns, the config says rank {module.said.get('r')}"
        raise DoesNotFit(name, f"{what}; the config belongs to another adapter")
    return Changes(Reflected(name, bool(module.said.get("apply_GS"))))


HRA: Final = Kind("HRA", (".hra_u",), words("r apply_GS init_weights"), changes)
