"""Σ|τ| of each model before and after thinning out, for `rescale: l1`: survivors are scaled up to restore it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

Masses = list[tuple[list[float], list[float]]]  # for each model the sums of blocks, before and after

# mergekit leaves alone what is this small
_SMALL: Final = 1e-7


def mass(x: Tensor, work: Tensor) -> float:
    """Return Σ|x| of a block in float64; `work` is a buffer of its shape."""
    import torch

    from surgery.math.reduce import dot

    return dot(x, torch.sign(x, out=work))


def fold(total: Masses, part: Masses) -> Masses:
    """Collect the blocks' sums."""
    for (before, after), (more_before, more_after) in zip(total, part, strict=True):
        before += more_before
        after += more_after
    return total


def factors(masses: Masses) -> list[float]:
    """Return what each model's survivors are multiplied with: Σ|τ| over what is left of it."""
    from surgery.math.reduce import exact_sum

    sums = [(exact_sum(before), exact_sum(after)) for before, after in masses]
    return [before / after if min(before, after) >= _SMALL else 1.0 for before, after in sums]
