"""How much is pruned, and of what: parameters that all pruning ops share, and what a plan knows of them. No torch."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from surgery.ops import Params, Signature, Split
from surgery.scalars import Share
from surgery.targets import Targets, is_stack, is_target

HALF: Final = 0.5
MOST: Final = 0.95
_PATTERN: Final = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
_MATRICES: Final = (2, 3)  # dimensions whose last one is a Linear's input


def _read(pattern: str) -> str:
    found = _PATTERN.fullmatch(pattern)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError(f"must be N:M with N weights kept of every M, such as `2:4`, got `{pattern}`")
    return pattern


Pattern = Annotated[
    str,
    AfterValidator(_read),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN.pattern}$", "examples": ["2:4"]}),
]


class Amount(Params):
    """How many weights are set to zero."""

    sparsity: Share | None = None
    """Share of the weights that become 0, from 0 to 1; 0.5 if neither this nor `pattern` is given."""

    pattern: Pattern | None = None
    """`N:M` instead of a share: N weights are kept of every M neighbours along a Linear's input."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.pattern and self.sparsity is not None:
            raise ValueError("both `sparsity` and `pattern`; keep one")
        return self

    @property
    def share(self) -> float:
        """Return the share of weights that become 0."""
        return HALF if self.sparsity is None else self.sparsity

    @property
    def group(self) -> tuple[int, int] | None:
        """Return how many weights are kept, and of how many neighbours."""
        found = _PATTERN.fullmatch(self.pattern or "")
        return (int(found[1]), int(found[2])) if found else None


class Sparsity(Amount):
    """How many weights are set to zero, and among which they are compared."""

    scope: Literal["tensor", "row", "layer", "model"] = "tensor"
    """What `sparsity` is a share of: each tensor, each row (output of a Linear), the pruned tensors of each layer
    (those outside layers count as one), or all pruned tensors together."""

    max_sparsity: float | None = Field(default=None, gt=0, le=1)
    """With `scope: layer` or `model`, the largest share that a single tensor loses; 0.95 if not given."""

    targets: Targets = "linear"
    """What is pruned: Linears of the blocks, or `all` tensors of two and more dimensions. `where:` narrows it down."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.pattern and self.joins:
            raise ValueError(
                f"`pattern` compares neighbours, `scope: {self.scope}` weights of several tensors; keep one"
            )
        if self.max_sparsity is not None and not self.joins:
            raise ValueError(
                f"`max_sparsity` belongs to `scope: layer` and `model`, got `scope: {self.scope}`; remove it"
            )
        if self.joins and isinstance(self.sparsity, float) and self.sparsity > self.cap:
            raise ValueError(
                f"`sparsity` {self.sparsity:g} is above `max_sparsity` {self.cap:g}; raise the latter"
            )
        return self

    @property
    def joins(self) -> bool:
        """Return whether weights of several tensors are compared."""
        return self.scope in ("layer", "model")

    @property
    def cap(self) -> float:
        """Return the largest share of a tensor that becomes 0 where several are compared."""
        return MOST if self.max_sparsity is None else self.max_sparsity


def split_of(p: Sparsity) -> Split:
    """Return how the work may be cut: rows and N:M groups are looked at as a whole."""
    if p.joins:
        return Split.MODEL
    return Split.ROW if p.pattern or p.scope == "row" else Split.REDUCE


SPLITS: Final = (Split.REDUCE, Split.ROW, Split.MODEL)


def pool_of(signature: Signature, p: Sparsity) -> tuple[str, int] | None:
    """Return the tensor's layer where the weights of a layer are compared."""
    return signature.role.place if p.scope == "layer" else None


def pruned(share: float, count: int) -> int:
    """Return how many of `count` weights become 0: ⌊s·n⌋, with the share as the decimal that was written."""
    return math.floor(Fraction(repr(float(share))) * count)


def compared(signature: Signature) -> int:
    """Return the number of weights of a row: a Linear's inputs, a convolution's inputs times its window."""
    spec = signature.first
    return spec.shape[-1] if is_stack(signature) else spec.row


def untouched(signature: Signature, p: Sparsity) -> bool:
    """Return whether nothing of a tensor is pruned: it is no target, or the share comes to no weight."""
    if not is_target(signature, p.targets):
        return True
    if p.group is not None:
        return p.group[0] == p.group[1]
    if p.joins:
        return p.share == 0
    return pruned(p.share, compared(signature) if p.scope == "row" else signature.numel) == 0


def check(signature: Signature, p: Sparsity) -> str | None:
    """Return what is wrong with a tensor for an N:M pattern: its inputs must come in whole groups."""
    return check_pattern(signature, p) if is_target(signature, p.targets) else None


def check_pattern(signature: Signature, p: Amount) -> str | None:
    """Return what is wrong with a tensor that is pruned for an N:M pattern."""
    if p.group is None:
        return None
    shape, (_, size) = signature.first.shape, p.group
    if len(shape) not in _MATRICES:
        return f"pattern {p.pattern} needs matrices, got {shape}; leave the tensor out with `where:`"
    if shape[-1] % size:
        return f"{shape[-1]} inputs do not divide into groups of {size}; leave the tensor out with `where:`"
    return None
