"""The largest magnitudes of every row, exactly so many: of equal ones those of the lower index stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

# Up to this length all pairs are compared. ns per weight on a busy core of 2.5 GHz: 14 for rows of 4, 24 for 8; by
# selection 20 to 30 for long rows; sorting takes 50 to 90 for any.
_SHORT: Final = 12


def largest_of_rows(rows: Tensor, count: int) -> Tensor:
    """Return where the `count` largest |x| of each row are, as bool in the shape of `rows` [rows, length]."""
    import torch

    length = rows.shape[1]
    if count == 0 or rows.numel() == 0:
        return torch.zeros_like(rows, dtype=torch.bool)
    return _paired(rows.abs(), count) if length <= _SHORT else _selected(rows.abs(), count)


def _paired(magnitudes: Tensor, count: int) -> Tensor:
    """Count for each column how many others beat it; a column is beaten by an equal one on its left."""
    import torch

    columns = [column.contiguous() for column in magnitudes.unbind(1)]
    beaten = [torch.zeros_like(column, dtype=torch.int8) for column in columns]
    for right, column in enumerate(columns):
        for left in range(right):
            left_wins = columns[left] >= column
            beaten[right] += left_wins
            beaten[left] += left_wins.logical_not_()
    return torch.stack([times < count for times in beaten], dim=1)


def _selected(magnitudes: Tensor, count: int) -> Tensor:
    """Keep what is above the row's threshold, and of what equals it the first."""
    import torch

    threshold = torch.kthvalue(magnitudes, magnitudes.shape[1] - count + 1, dim=1, keepdim=True).values
    kept = magnitudes >= threshold
    surplus = kept.sum(1) > count
    if bool(surplus.any()):  # nearly always a few rows of 16-bit weights
        rows = magnitudes[surplus]
        above, equal = rows > threshold[surplus], rows == threshold[surplus]
        room = count - above.sum(1, keepdim=True)
        kept[surplus] = above | (equal & (equal.cumsum(1) <= room))
    return kept
