"""What becomes of each tensor: two factors, a tensor stored whole, or nothing. Name, role and shape decide."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from surgery.math.ranks import rank_for_ratio
from surgery.ops import Params, Signature
from surgery.targets import Targets, is_target
from surgery.tensors import STORED_FLOATS, TensorSpec

PREFIX: Final = "base_model.model."
DEFAULT_RANK: Final = 16
_MATRIX: Final = 2


class Kind(Enum):
    """How a tensor's change is stored."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    BIAS = "bias"  # of a module whose weight becomes factors
    WHOLE = "whole"
    NOTHING = "nothing"


_NAMES: Final = {
    Kind.LINEAR: ("lora_A.weight", "lora_B.weight"),
    Kind.EMBEDDING: ("lora_embedding_A", "lora_embedding_B"),
}


class Factored(Params):
    """Parameters of ops that give matrices factors."""

    rank: Annotated[int, Field(ge=1)] | None = None
    """Ranks of the factors of every matrix, no more than it has; by default 16."""

    targets: Targets = "linear"
    """What is given factors: Linears of the blocks, or `all` matrices, embeddings and head among them."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the factors are stored as."""

    fan_in_fan_out: bool = False
    """The model's weights are [in, out], as GPT-2's are."""


class Extract(Factored):
    """Parameters of adapter.extract."""

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Size of the two factors as a share of the matrix, in the place of `rank`: rank ⌊ρ·RC/(R+C)⌋, at least 1."""

    energy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a change's Σσ² that is kept, where its ranks suffice; zeros fill what it needs no direction for."""

    save: Literal["none", "rest"] = "none"
    """`rest`: tensors without factors (norms, biases, embeddings) are stored whole; `none`: their change is dropped."""

    base_model: str | None = None
    """What the adapter says its base is called; by default the source of `base`, of a path the last part."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.rank is not None and self.ratio is not None:
            raise ValueError("takes one of `rank` and `ratio`, got both; leave one out")
        return self


def kind_of(signature: Signature, p: Factored) -> Kind:
    """Return how a tensor's change is stored."""
    if signature.numel and _factored(signature, p):
        return Kind.EMBEDDING if _part(signature) == "embed" else Kind.LINEAR
    if not isinstance(p, Extract) or p.save == "none":
        return Kind.NOTHING
    return Kind.BIAS if _factored(_weight_of(signature), p) else Kind.WHOLE


def has_factors(signature: Signature, p: Factored) -> bool:
    """Return whether a tensor is given factors."""
    return kind_of(signature, p) in _NAMES


def module_of(name: str) -> str:
    """Return the module that a tensor belongs to."""
    return name.rpartition(".")[0]


def rank_of(signature: Signature, p: Factored) -> int:
    """Return the rank of a tensor's factors."""
    shape, ratio = signature.first.shape, p.ratio if isinstance(p, Extract) else None
    wanted = max(1, rank_for_ratio(shape, ratio)) if ratio is not None else (p.rank or DEFAULT_RANK)
    return min(wanted, *shape)


def transposed(signature: Signature, p: Factored) -> bool:
    """Return whether the product of the factors is the transposed change: of embeddings, and of weights [in, out]."""
    return kind_of(signature, p) is Kind.EMBEDDING or p.fan_in_fan_out


def pair_shape(signature: Signature, p: Factored) -> tuple[int, int]:
    """Return the shape of B·A."""
    rows, columns = signature.first.shape
    return (columns, rows) if transposed(signature, p) else (rows, columns)


def pair(signature: Signature, p: Factored) -> tuple[TensorSpec, TensorSpec]:
    """Return A [rank, in] and B [out, rank] of a tensor that is given factors, as they are stored."""
    rank, dtype, (out, into) = rank_of(signature, p), STORED_FLOATS[p.dtype], pair_shape(signature, p)
    module, (a, b) = PREFIX + module_of(signature.name), _NAMES[kind_of(signature, p)]
    return TensorSpec(f"{module}.{a}", (rank, into), dtype), TensorSpec(f"{module}.{b}", (out, rank), dtype)


def _factored(signature: Signature, p: Factored) -> bool:
    if not signature.name.endswith(".weight") or len(signature.first.shape) != _MATRIX:
        return False
    linear = (
        p.fan_in_fan_out and _part(signature) == "head"
    )  # the one matrix of such a model that is [out, in]
    return is_target(signature, p.targets) and not linear


def _part(signature: Signature) -> str:
    return signature.role.kind.partition(".")[0]


def _weight_of(signature: Signature) -> Signature:
    """Return what the weight of a bias's module looks like, but for its size; anything else as it is."""
    if not signature.name.endswith(".bias") or _part(signature) == "norm":
        return signature
    name = f"{module_of(signature.name)}.weight"
    spec = TensorSpec(name, (signature.numel, 1), signature.first.dtype)
    return replace(signature, name=name, models=(spec,), base=spec)
