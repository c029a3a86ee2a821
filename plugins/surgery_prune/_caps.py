"""Thresholds of single tensors within a pass over the whole model: for those that a global one would empty.

Three passes look at 11, 10 and 10 bits of the magnitudes: 16 KiB for a tensor at a time, so that it does not matter how
many tensors there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Counts = npt.NDArray[np.int64]

SHIFTS: Final = (20, 10, 0)
_BINS: Final = (1 << 11, 1 << 10, 1 << 10)


@dataclass(frozen=True, slots=True)
class Digits:
    """What is known of the `rank`-th largest magnitude's pattern: it begins with `done` digits, those of `low`."""

    low: int
    rank: int  # among those that share the settled digits
    done: int = 0

    @property
    def settled(self) -> bool:
        """Return whether `low` is the pattern itself."""
        return self.done == len(SHIFTS)


def digit_counts(x: Tensor, known: Digits) -> Counts:
    """Return how often each next digit occurs in a block, among those magnitudes that share the settled ones."""
    import torch

    from surgery.math.patterns import device_patterns

    bins = _BINS[known.done]
    digits = (device_patterns(x.reshape(-1)) - known.low) >> SHIFTS[known.done]
    inside = digits[(digits >= 0) & (digits < bins)]
    counts: Counts = torch.bincount(inside, minlength=bins).cpu().numpy()
    return counts


def next_digit(known: Digits, counts: Counts) -> Digits:
    """Return what is known after all blocks have been counted."""
    above = 0
    for digit in range(len(counts) - 1, -1, -1):
        inside = int(counts[digit])
        if known.rank <= above + inside:
            low = known.low + (digit << SHIFTS[known.done])
            return Digits(low, known.rank - above, known.done + 1)
        above += inside
    raise AssertionError("a rank is among what is counted")
