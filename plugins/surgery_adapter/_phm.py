"""A dense matrix of Compacter's parts; an op that only layouts call, not registered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.ops import Chunk, Params, Signature, Split, op
from surgery.tensors import TensorSpec, promote

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


class Phm(Params):
    """Which of the parts are given as two factors."""

    rule: bool = False
    """The small matrices."""

    weight: bool = False
    """The large ones."""


def product_shape(shapes: Sequence[Shape]) -> Shape | None:
    """Return the shape [n, rows, columns] of n matrices, whole or two factors each; None for what are none."""
    if any(len(shape) != 3 for shape in shapes):
        return None
    if len(shapes) == 1:
        return shapes[0]
    (n, rows, rank), (other, inner, columns) = shapes
    return (n, rows, columns) if (n, rank) == (other, inner) else None


def dense_shape(rule: Shape | None, weight: Shape | None) -> Shape | None:
    """Return the shape [out, in] of the Linear that Σ Aᵢ ⊗ Wᵢ is; None where the parts do not fit."""
    if rule is None or weight is None or rule[0] != weight[0]:
        return None
    return rule[2] * weight[2], rule[1] * weight[1]


def _dense(signature: Signature, p: Phm) -> TensorSpec:
    shapes = [spec.shape for spec in signature.models]
    cut = 1 + p.rule
    found = dense_shape(product_shape(shapes[:cut]), product_shape(shapes[cut:]))
    assert found is not None  # the layout has looked
    return TensorSpec(signature.name, found, promote([spec.dtype for spec in signature.models]))


@op("adapter.phm", split=Split.TENSOR, params=Phm, models=(2, 4), ordered=True, shapes="any", infer=_dense)
def phm(x: Chunk, p: Phm) -> Tensor:
    """Return (Σ Aᵢ ⊗ Wᵢ)ᵀ in float64: as a Linear's weight [out, in] it does what x·(Σ Aᵢ ⊗ Wᵢ) did."""
    import torch

    parts, cut = [part.double() for part in x.models], 1 + p.rule
    A = parts[0] @ parts[1] if p.rule else parts[0]
    W = parts[cut] @ parts[cut + 1] if p.weight else parts[cut]
    made = torch.einsum("nac,nkp->cpak", A, W)
    return made.reshape(A.shape[2] * W.shape[2], -1)
