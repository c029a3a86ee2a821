"""Which rows of which parts a tensor is made of, as stretches of rows that follow one another.

    index       5 6 7 0 9 9        of parts with 4 and 8 rows, one under another
    stretches   part 1 rows 1-3 · part 0 row 0 · part 1 row 5 · part 1 row 5

A permutation of 128,256 rows takes 3 MB at worst, and one stretch where nothing is permuted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True, eq=False)
class Stretches:
    """Stretch i begins at row `starts[i]` of the result, with row `rows[i]` of part `parts[i]`."""

    starts: array[int]
    parts: array[int]
    rows: array[int]
    count: int  # rows of the result

    def __len__(self) -> int:
        return len(self.starts)

    def length(self, i: int) -> int:
        """Return how many rows stretch i has."""
        return (self.starts[i + 1] if i + 1 < len(self.starts) else self.count) - self.starts[i]

    def elements(self, row: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (part, first element in it, elements) for a range of elements of the result, in order.

        `row` is the number of elements of a row.
        """
        if start >= stop:
            return
        i = bisect_right(self.starts, start // row) - 1
        while start < stop:
            end = min(stop, (self.starts[i] + self.length(i)) * row)
            yield self.parts[i], start + (self.rows[i] - self.starts[i]) * row, end - start
            start, i = end, i + 1

    def used(self, part: int) -> int:
        """Return how many rows of the result are rows of a part."""
        return sum(self.length(i) for i, other in enumerate(self.parts) if other == part)

    def identity(self) -> bytes:
        """Return bytes that are equal for equal stretches."""
        return b"".join(
            (self.starts.tobytes(), self.parts.tobytes(), self.rows.tobytes(), b"%d" % self.count)
        )


def stretches(lengths: Sequence[int], index: Sequence[int] | None) -> Stretches:
    """Return the stretches of an index into parts of some lengths; of all rows in order without one.

    Raises ValueError for a row that no part has.
    """
    ends = list(accumulate(lengths))
    starts, parts, rows = array("q"), array("q"), array("q")
    following = limit = -1  # the row that would go on with the stretch, and the end of its part
    total = ends[-1] if ends else 0
    order: Sequence[int] = range(total) if index is None else index
    for at, row in enumerate(order):
        if row != following or row == limit:
            if not 0 <= row < total:
                raise ValueError(f"row {row} of {total}")
            part = bisect_right(ends, row)
            limit = ends[part]
            starts.append(at)
            parts.append(part)
            rows.append(row - limit + lengths[part])
        following = row + 1
    return Stretches(starts, parts, rows, len(order))
