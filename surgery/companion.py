"""What a merge may want beside each of its models: statistics, a tensor for each weight or matrix. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
V = TypeVar("V")

# By the companion's name: for each model that has a tensor what stands beside it, None where there is nothing.
Beside = Mapping[str, tuple[T | None, ...]]


@dataclass(frozen=True, slots=True)
class Companion:
    """Tensors that stand beside each model's own, under the same names, in a checkpoint or step of their own.

    shape    (signature, params) -> the shape of what belongs to a tensor; None: nothing does
    without  what becomes of a tensor that some model has no companion of, in words that follow `they are` in a plan;
             empty: that is an error
    """

    shape: Callable[[Any, Any], tuple[int, ...] | None]
    without: str = ""


def flat(beside: Beside[T]) -> tuple[T, ...]:
    """Return what is there, companion after companion, each in the models' order."""
    return tuple(one for row in beside.values() for one in row if one is not None)


def arranged(like: Beside[T], values: Iterable[V]) -> dict[str, tuple[V | None, ...]]:
    """Return values, in the order of `flat`, in the places where `like` has something."""
    left = iter(values)
    return {name: tuple(None if one is None else next(left) for one in row) for name, row in like.items()}
