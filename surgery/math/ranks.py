"""How many ranks are worth keeping, from a shape alone; what plans need of low-rank arithmetic. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

# Halko, Martinsson, Tropp 2011, section 4: a few columns more than the rank, and passes that sharpen the spectrum.
OVERSAMPLING: Final = 8
POWER_PASSES: Final = 2

# Up to this smaller dimension the whole decomposition takes about a second, and is exact.
EXACT_UP_TO: Final = 1024

_DOUBLE: Final = 8  # bytes of a float64
_ROOM: Final = 4 << 20  # what LAPACK and BLAS keep for themselves, whatever the size


def flattened(shape: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of the matrix that a tensor is seen as: a convolution's [out, in·kh·kw]."""
    return shape[0], math.prod(shape[1:])


def rank_for_ratio(shape: Sequence[int], ratio: float) -> int:
    """Return ⌊ρ·RC/(R+C)⌋: the rank whose two factors hold the share `ratio` of the matrix's numbers.

    `ratio` is taken as the decimal that was written: 0.29 of 100 is 29, though the float is below it.
    """
    rows, columns = flattened(shape)
    return math.floor(Fraction(repr(float(ratio))) * rows * columns / max(rows + columns, 1))


def saves(shape: Sequence[int], rank: int) -> bool:
    """Return whether two factors of this rank hold fewer numbers than the matrix: r < RC/(R+C)."""
    rows, columns = flattened(shape)
    return rank * (rows + columns) < rows * columns


def sketch_width(shape: Sequence[int], rank: int) -> int:
    """Return the columns of the randomized method's test matrix: rank + 8, no more than the matrix has."""
    return min(rank + OVERSAMPLING, *flattened(shape))


def draws_needed(shape: Sequence[int], rank: int) -> int:
    """Return how many uniform numbers `svd_randomized` uses; never more than the matrix has elements."""
    return flattened(shape)[1] * sketch_width(shape, rank)


def exact_bytes(shape: Sequence[int]) -> int:
    """Return the temporaries of `svd_exact` in bytes, its results included, as measured on LAPACK's gesdd."""
    rows, columns = flattened(shape)
    small = min(rows, columns)
    return _DOUBLE * (2 * rows * columns + 2 * small * (rows + columns) + 4 * small * small) + _ROOM


def randomized_bytes(shape: Sequence[int], rank: int) -> int:
    """Return the temporaries of `svd_randomized` in bytes, its results included."""
    rows, columns = flattened(shape)
    width = sketch_width(shape, rank)
    return _DOUBLE * width * (4 * rows + 6 * columns + 6 * width) + _ROOM


def is_small(shape: Sequence[int]) -> bool:
    """Return whether a matrix is decomposed exactly where a method does not ask its user."""
    return min(flattened(shape)) <= EXACT_UP_TO


def largest_bytes(shape: Sequence[int], rank: int) -> int:
    """Return the temporaries of `surgery.math.svd.svd_largest` in bytes, its results included."""
    return exact_bytes(shape) if is_small(shape) else randomized_bytes(shape, rank)


def polar_bytes(shape: Sequence[int]) -> int:
    """Return the temporaries of `surgery.math.polar.polar` in bytes, its result included."""
    rows, columns = flattened(shape)
    return exact_bytes(shape) + _DOUBLE * rows * columns
