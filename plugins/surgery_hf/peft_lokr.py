"""LoKr (Yeh et al. 2024, LyCORIS, arXiv:2309.14859): a Kronecker product, each side whole or factored.

W' = W + s·(C ⊗ D), reshaped as W        row i is the outer product of C[i // k] and D[i mod k], D having k rows
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
class Side:
    """One side of the product: `whole`, or `a`·`b`, or, with `core` [i, j, k, l], Σij core·a[i, p]·b[j, r]."""

    whole: str | None = None
    a: str = ""
    b: str = ""
    core: str | None = None

    def names(self) -> list[str]:
        """Return the tensors that it is made of."""
        return [self.whole] if self.whole else [self.a, self.b, *([self.core] if self.core else [])]

    def shape(self, specs: Mapping[str, TensorSpec]) -> tuple[int, int]:
        """Return its rows and the elements of a row."""
        if self.whole:
            return specs[self.whole].shape[0], specs[self.whole].row
        a, b = specs[self.a].shape, specs[self.b].shape
        if self.core:
            return a[1], b[1] * specs[self.core].shape[2] * specs[self.core].shape[3]
        return a[0], b[1]

    def decode(self, reading: Reading) -> Tensor:
        """Return it as a matrix."""
        import torch

        if self.whole:
            return reading.whole(self.whole).flatten(1)
        a, b = reading.whole(self.a), reading.whole(self.b)
        if self.core:
            return torch.einsum("ijkl,ip,jr->prkl", reading.whole(self.core), a, b).flatten(1)
        return a @ b


@dataclass(frozen=True, slots=True)
class Kronecker(Formula):
    """What is added to a tensor: the Kronecker product of two sides."""

    left: Side
    right: Side
    scale: float

    def parts(self) -> list[str]:
        """Return the tensors of both sides."""
        return [*self.left.names(), *self.right.names()]

    def held(self, specs: Mapping[str, TensorSpec]) -> int:
        """Return the elements of both sides."""
        (a, b), (c, d) = self.left.shape(specs), self.right.shape(specs)
        return a * b + c * d

    def decode(self, reading: Reading) -> Held:
        """Return both sides as matrices, the scale on the left."""
        return {"left": self.left.decode(reading).mul(self.scale), "right": self.right.decode(reading)}

    def change(self, W: Tensor, first: int, held: Held, reading: Reading) -> None:
        """Add rows of the product."""
        import torch

        left, right = held["left"], held["right"]
        rows = torch.arange(first, first + len(W))
        outer = left[rows // len(right)].unsqueeze(2) * right[rows % len(right)].unsqueeze(1)
        W.add_(outer.flatten(1))


def changes(module: Module) -> Changes:
    """Return what is added to a module's weight."""
    left, right = _side(module, ".lokr_w1", None), _side(module, ".lokr_w2", ".lokr_t2")
    (a, b), (c, d) = left.shape(module.specs), right.shape(module.specs)
    if (a * c, b * d) != (module.rows, module.columns):
        what = f"multiplies to {a * c} rows of {b * d}, the base's weight is {module.weight.shape}"
        raise DoesNotFit(module.first, f"{what}; fold it into the base that it was trained on")
    return Changes(Kronecker(left, right, module.scales.scale_of(module.name)))


def _side(module: Module, whole: str, core: str | None) -> Side:
    if whole in module.parts:
        return Side(whole=module.parts[whole])
    a, b = module.need(f"{whole}_a", f"{whole}_b")
    has_core = core is not None and core in module.parts
    rank, (i, j) = module.scales.rank_of(module.name), (0 if has_core else 1, 0)
    if module.shape(a)[i] != rank or module.shape(b)[j] != rank:
        what = f"factors have shapes {module.shape(a)} and {module.shape(b)}, the config says rank {rank}"
        raise DoesNotFit(a, f"{what}; the config belongs to another adapter")
    return Side(a=a, b=b, core=module.parts[core] if core and has_core else None)


LOKR: Final = Kind(
    "LOKR",
    tuple(f".lokr_{end}" for end in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    words(
        "rank_dropout module_dropout use_effective_conv2d init_weights decompose_both decompose_factor "
        "rank_dropout_scale"
    ),
    changes,
    scaled=True,
)
