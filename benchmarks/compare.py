"""Do two engines give the same numbers? Every element of two bfloat16 outputs is compared, chunk by chunk.

The unit is the bfloat16 step (ulp): both engines compute in float32 and round once, so that a sum taken in
another order may end one step away, and nothing may end further away. TIES has one freedom more. Where
several deltas of a tensor are exactly as large as the threshold, each engine must keep k elements in all but
may choose *which* of the equal ones; such elements are counted by themselves, found from the thresholds of
the inputs, which are computed here once more and exactly.
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
    """How many elements differ, how many of them by an arbitrary choice, the largest step of the others."""

    tensors: int
    elements: int
    differ: int
    at_threshold: int
    largest_step: int
    tensors_in_one_only: int

    @property
    def same(self) -> bool:
        """Return whether the outputs agree within rounding and arbitrary choices."""
        return self.tensors_in_one_only == 0 and self.largest_step <= 1

    def record(self) -> dict[str, object]:
        """Return the counts, and the shares that they are of all elements."""
        unexplained = self.differ - self.at_threshold
        shares = {"share": self.differ / self.elements, "share_elsewhere": unexplained / self.elements}
        return {**asdict(self), **shares, "same": self.same}


@dataclass(frozen=True, slots=True)
class Trim:
    """The inputs and the density of a TIES merge: enough to find its thresholds."""

    base: Path
    models: tuple[Path, ...]
    density: float


def compare(left: Path, right: Path, trim: Trim | None = None) -> Differences:
    """Compare two outputs; with `trim`, tell choices among equal deltas from real differences."""
    lefts, rights = stored(left), stored(right)
    names = sorted(lefts.keys() & rights.keys())
    inputs = [stored(folder) for folder in (trim.base, *trim.models)] if trim else []
    elements = differ = chosen = largest = 0
    for name in names:
        elements += lefts[name].spec.elements
        places, steps = _differing(lefts[name], rights[name])
        if trim and places.size:
            free = _at_threshold([model[name] for model in inputs], places, trim.density)
            chosen += int(free.sum())
            differ += places.size
            steps = steps[~free]
        else:
            differ += places.size
        largest = max(largest, int(steps.max(initial=0)))
    return Differences(len(names), elements, differ, chosen, largest, len(lefts.keys() ^ rights.keys()))


def _differing(left: Stored, right: Stored) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return where two stored tensors differ, and by how many steps."""
    if left.spec != right.spec:
        raise ValueError(f"{left.spec.name}: {left.spec} and {right.spec} cannot be compared")
    places, steps = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for begin, a, b in _chunks(left, right):
        found = np.flatnonzero(a != b)
        places.append(found + begin)
        steps.append(np.abs(_ordered(a[found]) - _ordered(b[found])))
    return np.concatenate(places), np.concatenate(steps)


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


def _floats(tensor: Stored) -> Floats:
    bits = _read(tensor, 0, tensor.spec.elements).astype(np.uint32) << 16
    return bits.view(np.float32)


def _at_threshold(inputs: list[Stored], places: NDArray[np.int64], density: float) -> NDArray[np.bool_]:
    """Return at which of the places some model's delta is exactly as large as its smallest kept one."""
    base = _floats(inputs[0])
    free = np.zeros(places.size, dtype=np.bool_)
    for model in inputs[1:]:
        sizes = np.abs(_floats(model) - base)
        kept = max(1, int(density * sizes.size))
        at_places = sizes[places]
        # the k-th largest; partition works in place, and the sizes are not needed in order any more
        sizes.partition(sizes.size - kept)
        free |= at_places == sizes[sizes.size - kept]
    return free
