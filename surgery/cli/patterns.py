"""Thousands of tensors in a few lines: those whose names differ in numbers alone, of one shape and dtype."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from surgery.tensors import TensorInfo

_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Tensors alike: the name with `*` for numbers, role, shape, dtype, layers; parameters and bytes of all."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    tensors: int
    layers: tuple[int, ...]
    parameters: int
    nbytes: int

    def record(self) -> dict[str, Any]:
        """Return the pattern as plain data."""
        return asdict(self)


def patterns_of(infos: Iterable[TensorInfo]) -> list[Pattern]:
    """Return tensors by pattern, in the order of their first tensors."""
    alike: dict[tuple[str, str, tuple[int, ...], str], list[TensorInfo]] = {}
    for info in infos:
        key = (_NUMBER.sub("*", info.name), info.role.kind, info.spec.shape, info.spec.dtype)
        alike.setdefault(key, []).append(info)
    return [
        Pattern(
            *key,
            tensors=len(members),
            layers=tuple(sorted({info.role.layer for info in members if info.role.layer is not None})),
            parameters=sum(info.spec.numel for info in members),
            nbytes=sum(info.spec.nbytes for info in members),
        )
        for key, members in alike.items()
    ]
