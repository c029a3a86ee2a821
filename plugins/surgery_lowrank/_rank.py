"""Which rank a matrix gets: parameters that ops share, and what a plan knows of them. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from surgery.math.ranks import EXACT_UP_TO, rank_for_ratio, saves
from surgery.ops import Params, Signature
from surgery.scalars import Schedulable
from surgery.targets import Targets, is_target, matrix_shape

Whole = Annotated[float, Schedulable(ge=1)]
Part = Annotated[float, Schedulable(gt=0, le=1)]
Method = Literal["auto", "exact", "randomized"]


class Rank(Params):
    """How many ranks are kept, said in one of three ways."""

    rank: Whole | None = None
    """Ranks that are kept, a whole number."""

    ratio: Part | None = None
    """Size of the two factors as a share of the matrix: rank ⌊ρ·RC/(R+C)⌋, at least 1."""

    energy: Part | None = None
    """Share of Σσ² that is kept: the smallest rank that reaches it, looked for in every matrix."""

    method: Method = "auto"
    """`exact` by LAPACK, `randomized` (fast, nearly the same), or `auto`: exact up to 1,024 rows or columns."""

    only_if_smaller: bool = True
    """Copy a matrix if the factors of its rank would hold no fewer numbers than it does: r ≥ RC/(R+C)."""

    targets: Targets = "linear"
    """What is changed: Linears of the blocks, or `all` tensors of two and more dimensions. `where:` narrows it down."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("rank", "ratio", "energy") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(f"needs one of `rank`, `ratio` and `energy`, got {got}")
        if self.energy is not None and self.method == "randomized":
            raise ValueError(
                "`energy` needs all singular values, `method: randomized` finds a few; use `exact`"
            )
        return self


def known_rank(signature: Signature, p: Rank) -> int | None:
    """Return the rank that `rank` or `ratio` comes to, no more than the matrix has; None with `energy`."""
    shape = matrix_shape(signature)
    if p.energy is not None:
        return None
    wanted = int(p.rank) if p.rank is not None else max(1, rank_for_ratio(shape, p.ratio or 0))
    return min(wanted, *shape)


def worth(shape: tuple[int, int], rank: int, p: Rank) -> bool:
    """Return whether a matrix is replaced by one of this rank; never by one of its full rank."""
    return rank < min(shape) and (saves(shape, rank) or not p.only_if_smaller)


def untouched(signature: Signature, p: Rank) -> bool:
    """Return whether a tensor is copied, as far as a plan can tell."""
    if not is_target(signature, p.targets) or signature.numel == 0:
        return True
    rank = known_rank(signature, p)
    return p.energy == 1 if rank is None else not worth(matrix_shape(signature), rank, p)


def exact(shape: tuple[int, int], p: Rank) -> bool:
    """Return whether all singular values of a matrix are computed."""
    return p.energy is not None or p.method == "exact" or (p.method == "auto" and min(shape) <= EXACT_UP_TO)


def check(signature: Signature, p: Rank) -> str | None:
    """Return what is wrong with a rank."""
    if p.rank is not None and p.rank != int(p.rank):
        return f"rank must be a whole number, got {p.rank:g}; write one, or `ratio` where a ramp is wanted"
    return None
