"""Do two engines give the same numbers? Every element of two bfloat16 outputs is compared, chunk by chunk.

The unit is the bfloat16 step (ulp): both engines compute in float32 and round once, so that a sum taken in
another order may end one step away, and nothing may end further away. In TIES the engines differ by rule where
several deltas of a tensor are exactly as large as the threshold: surgery keeps them all, mergekit keeps k
elements in all, and its sort decides which of the equal ones. Such elements are counted by themselves, found
from the thresholds of the inputs, which are computed here once more and exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from checkpoints import Stored, stored
from numpy.typing import NDArray

CHUNK = 8 << 20
Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Differences:
    """How many elements differ where a delta equals a threshold, how many elsewhere and by how much."""

    elements: int
    at_threshold: int = 0
    elsewhere: int = 0
    largest_step: int = 0  # in bfloat16 steps: across zero, a sign costs thousands
    largest_gap: float = 0.0  # as a number
    tensors_in_one_only: int = 0

    def __add__(self, other: Differences) -> Differences:
        return Differences(
            self.elements + other.elements,
            self.at_threshold + other.at_threshold,
            self.elsewhere + other.elsewhere,
            max(self.largest_step, other.largest_step),
            max(self.largest_gap, other.largest_gap),
            self.tensors_in_one_only + other.tensors_in_one_only,
        )

    @property
    def same(self) -> bool:
        """Return whether the outputs agree within rounding, thresholds aside."""
        return self.tensors_in_one_only == 0 and self.largest_step <= 1

    def record(self) -> dict[str, object]:
        """Return the counts, and the shares that they are of all elements."""
        counts = {"at_threshold": self.at_threshold, "elsewhere": self.elsewhere}
        shares = {f"share_{name}": count / self.elements for name, count in counts.items()}
        return {**asdict(self), **shares, "same": self.same}


@dataclass(frozen=True, slots=True)
class Trim:
    """The inputs and the density of a TIES merge: enough to find its thresholds."""

    base: dict[str, Stored]
    models: tuple[dict[str, Stored], ...]
    density: float

    def on_threshold(self, name: str, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return at which places some model's delta is exactly as large as the smallest that it keeps."""
        base = _floats(self.base[name])
        equal = np.zeros(places.size, dtype=np.bool_)
        for model in self.models:
            sizes = np.abs(_floats(model[name]) - base)
            at_places = sizes[places]
            kept = max(1, int(self.density * sizes.size))
            # the k-th largest; the sizes are not needed in order any more, so that no copy is made
            sizes.partition(sizes.size - kept)
            equal |= at_places == sizes[sizes.size - kept]
        return equal


def compare(left: Path, right: Path, trim: Trim | None = None) -> Differences:
    """Compare two outputs; with `trim`, tell deltas that equal a threshold from all others."""
    lefts, rights = stored(left), stored(right)
    found = Differences(0, tensors_in_one_only=len(lefts.keys() ^ rights.keys()))
    for name in sorted(lefts.keys() & rights.keys()):
        found += _compare_tensor(lefts[name], rights[name], trim)
    return found


def _compare_tensor(left: Stored, right: Stored, trim: Trim | None) -> Differences:
    """Compare a tensor of two outputs; the thresholds are looked for only if something differs."""
    if left.spec != right.spec:
        raise ValueError(f"{left.spec.name}: {left.spec} and {right.spec} cannot be compared")
    places, a, b = _differing(left, right)
    at_threshold = 0
    if trim and places.size:
        equal = trim.on_threshold(left.spec.name, places)
        at_threshold, a, b = int(equal.sum()), a[~equal], b[~equal]
    steps = np.abs(_ordered(a) - _ordered(b))
    gaps = np.abs(_widened(a) - _widened(b))
    most = int(steps.max(initial=0)), float(gaps.max(initial=0))
    return Differences(left.spec.elements, at_threshold, a.size, *most)


def _differing(left: Stored, right: Stored) -> tuple[NDArray[np.int64], Bits, Bits]:
    """Return where two stored tensors differ, and what each holds there."""
    found = [(np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, np.uint16))]
    for begin, a, b in _chunks(left, right):
        here = np.flatnonzero(a != b)
        found.append((here + begin, a[here], b[here]))
    places, lefts, rights = zip(*found, strict=True)
    return np.concatenate(places), np.concatenate(lefts), np.concatenate(rights)


def _chunks(left: Stored, right: Stored) -> Iterator[tuple[int, Bits, Bits]]:
    for begin in range(0, left.spec.elements, CHUNK):
        count = min(CHUNK, left.spec.elements - begin)
        yield begin, _read(left, begin, count), _read(right, begin, count)


def _read(tensor: Stored, begin: int, count: int) -> Bits:
    if tensor.spec.dtype != "BF16":
        raise ValueError(f"{tensor.spec.name}: stored as {tensor.spec.dtype}, wanted BF16")
    return np.fromfile(tensor.path, np.uint16, count, offset=tensor.offset + 2 * begin)


def _ordered(bits: Bits) -> NDArray[np.int32]:
    """Return integers that are one apart for neighbouring bfloat16 values; both zeros are 0."""
    magnitude = (bits & 0x7FFF).astype(np.int32)
    return np.where(bits & 0x8000, -magnitude, magnitude)


def _widened(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _floats(tensor: Stored) -> Floats:
    return _widened(_read(tensor, 0, tensor.spec.elements))
