"""Rows and columns of a tensor that streams by flat: inner products along each, and numbers spread over them.

A matrix [rows, length] has a line for each row, or for each column. Three dimensions are stacked matrices, whose lines
are told apart; a vector is one line, whichever are asked for; of more dimensions (a convolution's) the first counts
rows and the others make one. Ranges may begin and end within a line: sums are added over ranges in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgery.math.gram import Matrix
from surgery.math.reduce import wide_pieces

Axis = Literal["rows", "columns"]
_STACK = 3  # dimensions of stacked matrices


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a tensor [stacks, rows, length] that is seen flat."""

    stacks: int
    rows: int
    length: int
    axis: Axis

    @property
    def count(self) -> int:
        """Return how many lines there are."""
        return self.stacks * (self.rows if self.axis == "rows" else self.length)

    def offsets(self, start: int, size: int) -> npt.NDArray[np.int64]:
        """Return where in a range each row that it touches begins; a row begun before it at 0."""
        first, count = self.covered(start, size)
        return np.maximum(np.arange(first, first + count, dtype=np.int64) * self.length - start, 0)

    def strips(self, start: int, size: int) -> Iterator[tuple[slice, int]]:
        """Yield a range in stretches of whole rows of one matrix, or of part of a row, each with its first column."""
        at, stop = start, start + size
        while at < stop:
            matrix, inside = divmod(at, self.rows * self.length)
            column = inside % self.length
            left = self.length - column if column else self.rows * self.length - inside
            end = min(at + left, stop)
            if not column and end - at > self.length:
                end -= (end - at) % self.length
            yield slice(at - start, end - start), matrix * self.length + column
            at = end

    def spread(self, values: Matrix, start: int, like: Tensor, known: int = 0) -> Tensor:
        """Return each element's value from those of the lines, in the shape, dtype and place of `like`, at `start`.

        `values` are those of all lines, or of the lines from `known` on.
        """
        size = like.numel()
        # rounded before they are spread: half the bytes of float64
        narrow = torch.from_numpy(values).to(like.dtype).numpy()
        spread = np.empty(size, narrow.dtype)
        for strip, first in self.strips(start, size):
            for_row = _by_row(spread[strip], self.length)
            if self.axis == "rows":
                line = (start + strip.start) // max(self.length, 1) - known
                for_row[:] = narrow[line : line + len(for_row), None]
            else:
                for_row[:] = narrow[first - known : first - known + for_row.shape[1]]
        return torch.from_numpy(spread).to(like.device).view(like.shape)

    def less(self, x: Tensor, values: Matrix, start: int, out: Tensor, known: int = 0) -> Tensor:
        """Fill `out` with each element of a range less the value of its row, and return it; no copy of `spread`'s size.

        `values` are those of all rows, or of the rows from `known` on. `out` may be `x`.
        """
        flat, to = x.reshape(-1), out.view(-1)
        narrow = torch.from_numpy(values).to(x.device, x.dtype)
        for strip, _ in self.strips(start, flat.numel()):
            row = (start + strip.start) // max(self.length, 1) - known
            rows = flat[strip].view(-1, min(self.length, strip.stop - strip.start))
            torch.sub(rows, narrow[row : row + len(rows), None], out=to[strip].view(rows.shape))
        return out

    def largest(self, values: Tensor, start: int) -> Matrix:
        """Return the largest of each row that a range touches, float64."""
        return self._along(values, start, lambda rows: rows.amax(1))

    def sums(self, values: Tensor, start: int) -> Matrix:
        """Return the sums over each row that a range touches, in the dtype of `values`, as float64."""
        return self._along(values, start, lambda rows: rows.sum(1))

    def _along(self, values: Tensor, start: int, reduce: Callable[[Tensor], Tensor]) -> Matrix:
        flat = values.reshape(-1)
        strips = [flat[strip] for strip, _ in self.strips(start, flat.numel())]
        rows = [reduce(strip.view(-1, min(self.length, len(strip)))) for strip in strips]
        return np.asarray(torch.cat(rows).double().cpu().numpy()) if rows else np.zeros(0)

    def covered(self, start: int, size: int) -> tuple[int, int]:
        """Return the first line that a range touches, and how many follow one another with it."""
        per = self.length if self.axis == "rows" else self.rows * self.length
        first, last = start // max(per, 1), -(-(start + size) // max(per, 1))
        # columns are taken whole matrix by whole matrix, so that ranges of one matrix can be added
        wide = 1 if self.axis == "rows" else self.length
        return first * wide, (last - first) * wide


def lines_of(shape: Sequence[int], axis: Axis) -> Lines:
    """Return the rows or the columns of a tensor of this shape."""
    if len(shape) < 2:
        return Lines(1, 1, math.prod(shape), "rows")
    stacks, *matrix = shape if len(shape) == _STACK else (1, *shape)
    return Lines(stacks, matrix[0], math.prod(matrix[1:]), axis)


@dataclass(slots=True)
class LineSums:
    """Sums along lines over some ranges: (first line, sums, what they were rounded by), each [lines, pairs].

    Ranges of the same lines are added as they come, with twice the digits of float64; changed in place.
    """

    parts: list[tuple[int, Matrix, Matrix]]

    def __iadd__(self, other: LineSums) -> Self:
        """Take up the sums over the ranges that follow."""
        for first, sums, errors in other.parts:
            last, mine, lost = self.parts[-1]
            if (last, mine.shape) == (first, sums.shape):
                both, error = _two_sum(mine, sums)
                self.parts[-1] = first, both, lost + errors + error
            else:
                self.parts.append((first, sums, errors))
        return self

    def total(self, lines: Lines) -> Matrix:
        """Return the sums along all lines, [lines, pairs]."""
        result = np.zeros((lines.count, self.parts[0][1].shape[1]))
        for first, sums, errors in self.parts:
            result[first : first + len(sums)] += sums + errors
        return result


def line_gram(vectors: Sequence[Tensor], lines: Lines, start: int, origin: Tensor | None = None) -> LineSums:
    """Return the products of `reduce.gram` along each line that a range from element `start` on touches.

    Ranges are float32 or float64, products and sums float64. With an `origin` they are those of the differences.
    """
    flat = [vector.cpu().numpy().reshape(-1) for vector in vectors]
    below = None if origin is None else origin.cpu().numpy().reshape(-1)
    first, count = lines.covered(start, flat[0].size)
    pairs = [(i, j) for i in range(len(flat)) for j in range(i, len(flat))]
    sums = np.zeros((count, len(pairs)))
    with np.errstate(over="ignore", invalid="ignore"):
        for pieces in wide_pieces(flat, below):
            for pair, (i, j) in enumerate(pairs):
                _add_along(lines, start, pieces[i] * pieces[j], sums[:, pair], first)
            start += pieces[0].size
    return LineSums([(first, sums, np.zeros_like(sums))])


def _add_along(lines: Lines, start: int, values: Matrix, sums: Matrix, first: int) -> None:
    """Add the values of a range to the sums of their lines, which begin with line `first`."""
    if lines.axis == "rows":
        line, count = lines.covered(start, values.size)
        sums[line - first : line - first + count] += np.add.reduceat(
            values, lines.offsets(start, values.size)
        )
        return
    for strip, line in lines.strips(start, values.size):
        rows = _by_row(values[strip], lines.length)
        sums[line - first : line - first + rows.shape[1]] += np.add.reduce(rows, axis=0)


def _by_row(stretch: Matrix, length: int) -> Matrix:
    """Return a stretch of whole rows as a matrix, part of a row as one of one row."""
    return stretch.reshape(-1, min(length, stretch.size))


def _two_sum(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Return a + b rounded, and what was lost: Knuth's, exact for any two floats."""
    both = a + b
    part = both - a
    return both, (a - (both - part)) + (b - part)
