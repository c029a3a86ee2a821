"""How two tensors differ, chunk by chunk in bounded memory. Imports torch when two chunks differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from surgery.tensors import DTYPES, TensorSpec, nbytes

if TYPE_CHECKING:
    from surgery.checkpoint.base import Checkpoint
    from surgery.plan.virtual import VirtualModel

CHUNK: Final = 1 << 18  # elements

Kind = Literal["same", "values", "dtype", "shape", "only in a", "only in b"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a checkpoint."""

    checkpoint: Checkpoint
    spec: TensorSpec


@dataclass(frozen=True, slots=True)
class Numbers:
    """How the values differ.

    `relative` is ‖a - b‖ / ‖a‖, infinite when a is zero. Elements of which the difference is not finite (NaN,
    infinity) count as differing, in `nonfinite`, and in nothing else.
    """

    max_abs: float = 0.0
    mean_abs: float = 0.0
    relative: float = 0.0
    share: float = 0.0
    nonfinite: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of one tensor. `numbers` is None for tensors of other shapes or without arithmetic."""

    name: str
    kind: Kind
    a: TensorSpec | None
    b: TensorSpec | None
    numbers: Numbers | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """Return how much it matters: what cannot be compared first, then the largest relative difference."""
        if self.numbers is None:
            return (0 if self.kind == "same" else 2, 0.0)
        return (0 if self.kind == "same" else 1, math.inf if self.numbers.nonfinite else self.numbers.relative)

    def record(self) -> dict[str, Any]:
        """Return the difference as plain data; an infinite relative difference is null."""
        data: dict[str, Any] = {"name": self.name, "kind": self.kind}
        for side, spec in (("a", self.a), ("b", self.b)):
            data[side] = None if spec is None else {"shape": list(spec.shape), "dtype": spec.dtype}
        numbers = self.numbers
        if numbers is not None:
            relative = numbers.relative if math.isfinite(numbers.relative) else None
            data |= {"max_abs": numbers.max_abs, "mean_abs": numbers.mean_abs, "relative": relative}
            data |= {"share": numbers.share, "nonfinite": numbers.nonfinite}
        return data


def compare(a: VirtualModel, b: VirtualModel) -> Iterator[Difference]:
    """Yield what became of each tensor that either model stores; a tied name stands for the tensor it shares."""
    for name in dict.fromkeys([*a.tensors, *b.tensors]):
        first, second = _stored(a, name), _stored(b, name)
        if first is None or second is None:
            kind: Kind = "only in b" if first is None else "only in a"
            yield Difference(name, kind, first.spec if first else None, second.spec if second else None)
        else:
            yield _compare(name, first, second)


def _stored(model: VirtualModel, name: str) -> Stored | None:
    info = model.info(name)
    return None if info is None else Stored(model.donor, info.spec)


def _compare(name: str, a: Stored, b: Stored) -> Difference:
    if a.spec.shape != b.spec.shape:
        return Difference(name, "shape", a.spec, b.spec)
    kind: Kind = "values" if a.spec.dtype == b.spec.dtype else "dtype"
    arithmetic = all(DTYPES[stored.spec.dtype].arithmetic for stored in (a, b))
    if not arithmetic and kind == "dtype":
        return Difference(name, kind, a.spec, b.spec)
    tally = _Tally(a.spec, b.spec, arithmetic)
    for chunks in zip(_chunks(a), _chunks(b), strict=True):
        tally.add(*chunks)
    if kind == "values" and not tally.unequal:
        kind = "same"
    return Difference(name, kind, a.spec, b.spec, tally.numbers())


def _chunks(stored: Stored) -> Iterator[memoryview]:
    """Yield a tensor's bytes, CHUNK elements at a time, always in the same buffer."""
    spec = stored.spec
    whole = spec.nbytes
    step = nbytes(CHUNK, spec.dtype)
    buffer = bytearray(min(step, whole))
    for start in range(0, whole, step):
        part = memoryview(buffer)[: whole - start]
        stored.checkpoint.read_into(spec.name, start, part)
        yield part


class _Tally:
    """Sums over the chunks of two tensors of one shape."""

    def __init__(self, a: TensorSpec, b: TensorSpec, arithmetic: bool) -> None:
        self.a, self.b, self.arithmetic = a, b, arithmetic
        self.unequal = False  # some bytes differ
        self.differing = self.nonfinite = 0
        self.largest = self.total = self.squares = self.norm = 0.0

    def add(self, first: memoryview, second: memoryview) -> None:
        """Count a chunk."""
        equal = self.a.dtype == self.b.dtype and bytes(first) == bytes(second)
        self.unequal = self.unequal or not equal
        if self.arithmetic:
            self._add_numbers(first, second, equal)
        elif not equal:
            self._add_bytes(first, second)

    def _add_bytes(self, first: memoryview, second: memoryview) -> None:
        import numpy as np

        width = max(DTYPES[self.a.dtype].bits // 8, 1)
        x, y = (np.frombuffer(part, dtype=np.uint8).reshape(-1, width) for part in (first, second))
        self.differing += int((x != y).any(axis=1).sum()) * (8 // min(DTYPES[self.a.dtype].bits, 8))

    def _add_numbers(self, first: memoryview, second: memoryview, equal: bool) -> None:
        import torch

        from surgery.math.convert import decode

        count = first.nbytes * 8 // DTYPES[self.a.dtype].bits
        x, y = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.float64)
        decode(first, self.a.dtype, x)
        self.norm += float(torch.where(x.isfinite(), x, 0.0).square_().sum())
        if equal:
            return
        decode(second, self.b.dtype, y)
        # equal infinities have no difference, and neither have two NaNs
        gap = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, (x - y).abs_())
        finite = gap.isfinite()
        self.nonfinite += count - int(finite.sum())
        self.differing += int((gap != 0).sum())
        gap = torch.where(finite, gap, 0.0)
        self.largest = max(self.largest, float(gap.max()))
        self.total += float(gap.sum())
        self.squares += float(gap.square_().sum())

    def numbers(self) -> Numbers | None:
        """Return what was found; None where there is no arithmetic and nothing to say but equal or not."""
        elements = max(self.a.numel, 1)
        share = self.differing / elements
        if not self.arithmetic:
            return Numbers(share=share, max_abs=math.nan, mean_abs=math.nan, relative=math.nan) if share else Numbers()
        relative = math.sqrt(self.squares / self.norm) if self.norm else math.inf if self.squares else 0.0
        return Numbers(self.largest, self.total / elements, relative, share, self.nonfinite)


def totals(differences: list[Difference]) -> Mapping[Kind, int]:
    """Return how many tensors there are of each kind."""
    counts: dict[Kind, int] = {}
    for difference in differences:
        counts[difference.kind] = counts.get(difference.kind, 0) + 1
    return counts
