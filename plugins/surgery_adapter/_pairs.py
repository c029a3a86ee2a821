"""Pairs of factors, ΔW = B·A: which two tensors of an adapter belong together, and ops on them.

A [r, in] and B [out, r] are two tensors; an op on an adapter sees both, of every model at once. Of a convolution they
are [r, in, kernel…] and [out, r, 1…] and are seen as matrices.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from surgery.ops import Chunk, Group, Params, Signature
from surgery.scalars import Scalar
from surgery.tensors import STORED_FLOATS, TensorInfo, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor


class Side(Enum):
    """Which of the two factors a tensor is."""

    A = "A"
    B = "B"


_ENDS: Final = {
    ".lora_A.weight": Side.A,
    ".lora_B.weight": Side.B,
    ".lora_embedding_A": Side.A,
    ".lora_embedding_B": Side.B,
}

Rank = Annotated[int, Field(ge=1)]


class Stored(Params):
    """Parameters that ops on adapters have in common."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the factors are stored as."""


class Weighted(Params):
    """Parameters of each adapter."""

    weight: Scalar = 1.0
    """Factor of the adapter's change."""


def side_of(name: str) -> Side | None:
    """Return which factor a tensor is; None for any other tensor."""
    return next((side for end, side in _ENDS.items() if name.endswith(end)), None)


def module_of(name: str) -> str:
    """Return the name of the module that a factor belongs to, as it is in the file."""
    return next(name.removesuffix(end) for end in _ENDS if name.endswith(end))


def rank_in(spec: TensorSpec) -> int:
    """Return the rank of a pair from the shape of one of its factors."""
    return spec.shape[0] if side_of(spec.name) is Side.A else spec.shape[1]


def sized(signature: Signature, rank: int, p: Stored) -> TensorSpec:
    """Return what a factor looks like once its pair has another rank."""
    old, first = signature.first.shape, side_of(signature.name) is Side.A
    shape = (rank, *old[1:]) if first else (old[0], rank, *old[2:])
    return TensorSpec(signature.name, shape, STORED_FLOATS[p.dtype])


def check(signature: Signature, p: Params) -> str | None:
    """Return what is wrong with a factor: that it is none, or that models differ in more than the rank."""
    side = side_of(signature.name)
    if signature.name.endswith((".lora_down.weight", ".lora_up.weight")):
        return "is named as kohya's scripts do; convert the adapter first with `adapter.convert`"
    if side is None:
        return "is no factor of a product; leave it out with `where:`"
    outer = {
        spec.shape[1:] if side is Side.A else (spec.shape[0], *spec.shape[2:]) for spec in signature.models
    }
    if len(outer) > 1:
        shapes = " and ".join(str(spec.shape) for spec in signature.models)
        return f"the adapters differ in more than the rank, got {shapes}; take adapters of one model"
    return None


def core_bytes(signature: Signature) -> int:
    """Return one factor's share of the temporaries of its pair in a common core: bases and cores, in float64."""
    ranks = sum(rank_in(spec) for spec in signature.models)
    return 8 * ranks * (4 * longest(signature) + (len(signature.models) + 6) * ranks)


def longest(signature: Signature) -> int:
    """Return the length of a factor's rank-one parts, the largest of the models'."""
    return max(math.prod(spec.shape) // rank_in(spec) for spec in signature.models)


class Pairs(Group):
    """An op on the two factors of a module, of all adapters that have it."""

    def key(self, tensor: TensorInfo, params: Params) -> Hashable | None:
        """Return the module."""
        return module_of(tensor.name) if side_of(tensor.name) else None

    def apply(self, members: Mapping[str, Chunk], params: Any) -> Mapping[str, Tensor]:
        """Return both factors of the result."""
        sides = {side_of(name): (name, x) for name, x in members.items()}
        (a_name, a), (b_name, b) = sides[Side.A], sides[Side.B]
        As, Bs = [m.flatten(1) for m in a.models], [m.flatten(1) for m in b.models]
        A, B = self.combine(As, Bs, self.weights(b.signature, params), params)
        shape_a, shape_b = a.models[0].shape[1:], b.models[0].shape[2:]
        dtype = a.models[0].dtype
        return {
            a_name: A.to(dtype).reshape(-1, *shape_a),
            b_name: B.to(dtype).reshape(len(B), -1, *shape_b),
        }

    def weights(self, signature: Signature, params: Any) -> Sequence[float]:
        """Return what each adapter's change is multiplied by."""
        weights = [float(each.weight) for each in signature.each if isinstance(each, Weighted)]
        return weights or [1.0] * len(signature.models)

    @abstractmethod
    def combine(
        self, As: Sequence[Tensor], Bs: Sequence[Tensor], weights: Sequence[float], params: Any
    ) -> tuple[Tensor, Tensor]:
        """Return A [rank, in] and B [out, rank] of the result; the inputs' ranks may differ."""
