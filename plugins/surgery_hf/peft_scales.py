"""Ranks and scales of an adapter's modules, as its config says them: one for all, and patterns for some."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of `rank_pattern` or `alpha_pattern`: a regular expression for the end of a module's name."""

    expression: str
    value: float

    def matches(self, module: str) -> bool:
        """Return whether the entry is about a module, as peft decides it."""
        return re.match(rf"(.*\.)?({self.expression})$", module) is not None


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What the fold needs of an adapter's config: ranks, scales, and how a module's weight is laid out."""

    rank: int
    alpha: float
    ranks: tuple[Pattern, ...] = ()
    alphas: tuple[Pattern, ...] = ()
    rank_stabilized: bool = False
    dora: bool = False
    transposed: bool = False  # `fan_in_fan_out`: weights are [in, out]

    def rank_of(self, module: str) -> int:
        """Return the rank that a module's factors must have."""
        return int(_first(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Return what B·A is multiplied by: α/r, or α/√r if it is rank-stabilized (Kalajdzievski 2023)."""
        rank = self.rank_of(module)
        return _first(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.rank_stabilized else rank)


def _first(patterns: tuple[Pattern, ...], module: str, default: float) -> float:
    return next((pattern.value for pattern in patterns if pattern.matches(module)), default)
