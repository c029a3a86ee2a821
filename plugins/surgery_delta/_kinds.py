"""Every codec by the name that delta_config.json gives it: its parameters, what is stored, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from surgery.ops import Part
from surgery.tensors import TensorSpec
from surgery_delta import basis, bits, kronecker, lowrank_sparse, quantize, reflect, sparse, tucker
from surgery_delta._basis import Coefficients
from surgery_delta._codec import Codec, Entries, Groups, Signs
from surgery_delta._godec import Sum
from surgery_delta._kronecker import Products
from surgery_delta._matrices import Matrices
from surgery_delta._reflect import Reflections
from surgery_delta._stored import Delta
from surgery_delta._tucker import Factors

Stored = Mapping[str, TensorSpec]  # by suffix


@dataclass(frozen=True, slots=True)
class Kind:
    """A codec: both functions get the tensor in the base, what is stored of its change, and the parameters.

    `layout` says what ought to be stored; what only weights or roles decide it takes from what is there. `codec` is
    asked when that is what is stored.
    """

    params: type[Delta]
    layout: Callable[[TensorSpec, Stored, Any], list[Part]]
    codec: Callable[[TensorSpec, Stored, Any], Codec]


def _bits_layout(base: TensorSpec, stored: Stored, p: bits.Bits) -> list[Part]:
    scale = stored.get("scale")
    return bits.layout(base, p, by_row=scale is not None and len(scale.shape) > 1)


def _signs(base: TensorSpec, stored: Stored, p: bits.Bits) -> Codec:
    return Signs(base, stored["signs"], stored["scale"], stored.get("changed"))


def _groups_layout(base: TensorSpec, stored: Stored, p: quantize.Quantize) -> list[Part]:
    return quantize.layout(base, p)


def _groups(base: TensorSpec, stored: Stored, p: quantize.Quantize) -> Codec:
    return Groups(base, stored["codes"], stored["scale"], p.bits, p.group_size or base.row)


def _entries_layout(base: TensorSpec, stored: Stored, p: sparse.Sparse) -> list[Part]:
    values = stored.get("values")
    return sparse.layout(base, p, values.numel if values else 0)


def _entries(base: TensorSpec, stored: Stored, p: Delta) -> Entries:
    return Entries(base, stored["values"], stored["columns"], stored["starts"])


def _tucker_layout(base: TensorSpec, stored: Stored, p: tucker.Tucker) -> list[Part]:
    fits = isinstance(p.rank, int) or len(p.rank) == len(base.shape)
    return tucker.layout(base, p) if fits else []


def _factors(base: TensorSpec, stored: Stored, p: tucker.Tucker) -> Codec:
    modes = tucker.reduced(base.shape, stored["core"].shape)
    return Factors(base, stored["core"], tuple((mode, stored[f"factor{mode}"]) for mode in modes))


def _stacked(base: TensorSpec, stored: Stored, suffix: str, dimensions: int) -> bool:
    """Return whether something that is stored of every matrix has a dimension more: one for the experts."""
    found = stored.get(suffix)
    return found is not None and len(found.shape) > dimensions and len(base.shape) > 2


def _kronecker_layout(base: TensorSpec, stored: Stored, p: kronecker.Kronecker) -> list[Part]:
    stacked = _stacked(base, stored, "left", 3)
    fits = kronecker.divides(Matrices.of(base, stacked=stacked), p)
    return kronecker.layout(base, p, stacked=stacked) if fits else []


def _products(base: TensorSpec, stored: Stored, p: kronecker.Kronecker) -> Codec:
    shape = Matrices.of(base, stacked=_stacked(base, stored, "left", 3))
    right = stored["right"] if p.rank is None else stored["tall"]
    return Products(base, stored["left"], right, stored.get("wide"), shape)


def _sum_layout(base: TensorSpec, stored: Stored, p: lowrank_sparse.LowrankSparse) -> list[Part]:
    values = stored.get("values")
    stacked = _stacked(base, stored, "left", 2)
    return lowrank_sparse.layout(base, p, values.numel if values else 0, stacked=stacked)


def _sum(base: TensorSpec, stored: Stored, p: lowrank_sparse.LowrankSparse) -> Codec:
    shape = Matrices.of(base, stacked=_stacked(base, stored, "left", 2))
    return Sum(base, stored["left"], stored["right"], _entries(base, stored, p), shape)


def _basis_layout(base: TensorSpec, stored: Stored, p: basis.Basis) -> list[Part]:
    return basis.layout(base, p, stacked=_stacked(base, stored, "beta", 1))


def _coefficients(base: TensorSpec, stored: Stored, p: basis.Basis) -> Codec:
    shape = Matrices.of(base, stacked=_stacked(base, stored, "beta", 1))
    return Coefficients(base, stored["beta"], stored["alpha"], shape, p)


def _reflect_layout(base: TensorSpec, stored: Stored, p: reflect.Reflect) -> list[Part]:
    stacked = any(_stacked(base, stored, suffix, 2) for suffix in ("u_in", "u_out"))
    fits = reflect.misfit(Matrices.of(base, stacked=stacked), p) is None
    return reflect.layout(base, p, stacked=stacked) if fits else []


def _reflections(base: TensorSpec, stored: Stored, p: reflect.Reflect) -> Codec:
    stacked = any(_stacked(base, stored, suffix, 2) for suffix in ("u_in", "u_out"))
    shape = Matrices.of(base, stacked=stacked)
    return Reflections(base, tuple((name, stored[name]) for name, _ in reflect.vectors(shape, p)), shape, p)


KINDS: Final[Mapping[str, Kind]] = {
    kind.params.codec: kind
    for kind in (
        Kind(basis.Basis, _basis_layout, _coefficients),
        Kind(bits.Bits, _bits_layout, _signs),
        Kind(quantize.Quantize, _groups_layout, _groups),
        Kind(reflect.Reflect, _reflect_layout, _reflections),
        Kind(sparse.Sparse, _entries_layout, _entries),
        Kind(kronecker.Kronecker, _kronecker_layout, _products),
        Kind(lowrank_sparse.LowrankSparse, _sum_layout, _sum),
        Kind(tucker.Tucker, _tucker_layout, _factors),
    )
}
