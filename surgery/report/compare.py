"""How two tensors differ, chunk by chunk in bounded memory. Imports torch when two tensors differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from surgery.tensors import DTYPES, TensorSpec, nbytes

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.checkpoint.base import Checkpoint
    from surgery.plan.virtual import VirtualModel

CHUNK: Final = 1 << 16  # elements: a chunk's values and gaps stay in the cache

Kind = Literal["same", "values", "dtype", "shape", "only in a", "only in b"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a checkpoint, or a stretch of one: `spec` says what is looked at, from element `start` on."""

    checkpoint: Checkpoint
    spec: TensorSpec
    start: int = 0


@dataclass(frozen=True, slots=True)
class Numbers:
    """How the values differ.

    `relative` is ‖a - b‖ / ‖a‖, infinite when a is zero; `share` is that of the elements that differ. Elements of
    which the difference is not finite (NaN, infinity) count in `share` and `nonfinite` alone. Where no arithmetic is
    defined (integers, codes) only `share` is known, of codes smaller than a byte that of the bytes.
    """

    max_abs: float | None = 0.0
    mean_abs: float | None = 0.0
    relative: float | None = 0.0
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
        if self.kind == "same":
            return 0, 0.0
        if self.numbers is None:
            return 2, 0.0
        relative = self.numbers.relative
        return 1, math.inf if self.numbers.nonfinite or relative is None else relative

    def record(self) -> dict[str, Any]:
        """Return the difference as plain data; what is infinite is null."""
        data: dict[str, Any] = {"name": self.name, "kind": self.kind}
        for side, spec in (("a", self.a), ("b", self.b)):
            data[side] = None if spec is None else {"shape": list(spec.shape), "dtype": spec.dtype}
        numbers = self.numbers
        if numbers is not None:
            for key in ("max_abs", "mean_abs", "relative"):
                value = getattr(numbers, key)
                data[key] = value if value is not None and math.isfinite(value) else None
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
            yield compare_tensors(name, first, second)


def _stored(model: VirtualModel, name: str) -> Stored | None:
    info = model.info(name)
    return None if info is None else Stored(model.donor, info.spec)


def compare_tensors(name: str, a: Stored, b: Stored) -> Difference:
    """Return what became of one tensor."""
    if a.spec.shape != b.spec.shape:
        return Difference(name, "shape", a.spec, b.spec)
    kind: Kind = "values" if a.spec.dtype == b.spec.dtype else "dtype"
    if kind == "values" and _equal(a, b):
        return Difference(name, "same", a.spec, b.spec, Numbers())
    if all(DTYPES[stored.spec.dtype].arithmetic for stored in (a, b)):
        return Difference(name, kind, a.spec, b.spec, _numbers(a, b))
    if kind == "dtype":
        return Difference(name, kind, a.spec, b.spec)
    return Difference(name, kind, a.spec, b.spec, Numbers(None, None, None, _share_of_codes(a, b)))


def _chunks(stored: Stored) -> Iterator[memoryview]:
    """Yield a tensor's bytes, CHUNK elements at a time, always in the same buffer."""
    spec = stored.spec
    whole = spec.nbytes
    step = nbytes(CHUNK, spec.dtype)
    buffer = bytearray(min(step, whole))
    first = nbytes(stored.start, spec.dtype)
    for start in range(0, whole, step):
        part = memoryview(buffer)[: whole - start]
        stored.checkpoint.read_into(spec.name, first + start, part)
        yield part


def _equal(a: Stored, b: Stored) -> bool:
    """Return whether two tensors have the same bytes; reads up to the first chunk that differs."""
    return all(bytes(first) == bytes(second) for first, second in zip(_chunks(a), _chunks(b), strict=True))


def _share_of_codes(a: Stored, b: Stored) -> float:
    import numpy as np

    width = max(DTYPES[a.spec.dtype].bits // 8, 1)
    differing = 0
    for first, second in zip(_chunks(a), _chunks(b), strict=True):
        x, y = (np.frombuffer(part, dtype=np.uint8).reshape(-1, width) for part in (first, second))
        differing += int((x != y).any(axis=1).sum())
    return differing * width / a.spec.nbytes


def _numbers(a: Stored, b: Stored) -> Numbers:
    """Return how two tensors of one shape differ. On one thread: chunks are too small to share."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sums = _Sums()
        for first, second in zip(_chunks(a), _chunks(b), strict=True):
            _add(sums, _decoded(first, a.spec.dtype), _decoded(second, b.spec.dtype))
    finally:
        torch.set_num_threads(threads)
    elements = max(a.spec.numel, 1)
    relative = math.sqrt(sums.squares / sums.norm) if sums.norm else math.inf if sums.squares else 0.0
    return Numbers(sums.largest, sums.total / elements, relative, sums.differing / elements, sums.nonfinite)


@dataclass(slots=True)
class _Sums:
    """Over the chunks so far: of gaps |a - b| the largest, the sum, the sum of squares; the sum of a²; counts."""

    largest: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    norm: float = 0.0
    differing: int = 0
    nonfinite: int = 0


def _decoded(data: memoryview, dtype: str) -> Tensor:
    import torch

    from surgery.math.convert import decode

    values = torch.empty(data.nbytes * 8 // DTYPES[dtype].bits, dtype=torch.float64)
    decode(data, dtype, values)
    return values


def _add(sums: _Sums, x: Tensor, y: Tensor) -> None:
    """Add a chunk's values, in float64."""
    import torch

    norm = float(x.dot(x))
    gap = torch.sub(x, y)
    squares = float(gap.dot(gap))
    if not math.isfinite(norm + squares):  # rare: only then it pays to look which elements are to blame
        # equal infinities do not differ, and neither do two NaNs
        gap = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, gap)
        finite = gap.isfinite()
        sums.nonfinite += int((~finite).sum())
        sums.differing += int((~finite).sum())
        gap = torch.where(finite, gap, 0.0)
        x = torch.where(x.isfinite(), x, 0.0)
        norm, squares = float(x.dot(x)), float(gap.dot(gap))
    gap.abs_()
    sums.largest = max(sums.largest, float(gap.max()))
    sums.total += float(gap.sum())
    sums.squares += squares
    sums.norm += norm
    sums.differing += int(gap.count_nonzero())


def totals(differences: list[Difference]) -> Mapping[Kind, int]:
    """Return how many tensors there are of each kind."""
    counts: dict[Kind, int] = {}
    for difference in differences:
        counts[difference.kind] = counts.get(difference.kind, 0) + 1
    return counts
