"""Rows that no model has: zeros, the mean of several models' rows, the mean of all rows. Called by layout ops only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.ops import Chunk, NoParams, Reduce, op

if TYPE_CHECKING:
    from torch import Tensor


@op("stitch.row_zero", models=1)
def zero(x: Chunk, p: NoParams) -> Tensor:
    """Zeros in the shape of the input."""
    return x.out.zero_()


@op("stitch.row_mean_of_models", models=(1, None))
def mean_of_models(x: Chunk, p: NoParams) -> Tensor:
    """The mean of several models' rows, summed in float64 in the order of the models."""
    total = x.models[0].double()
    for other in x.models[1:]:
        total = total + other
    return x.out.copy_(total / len(x.models))


class MeanOfRows(Reduce):
    """Every row is the mean of all rows, summed in float64."""

    def gather(self, x: Chunk, p: NoParams, found: None) -> Tensor:
        """Return the sums of a block's columns."""
        return as_rows(x.models[0], x.start, x.signature.first.row).sum(0)

    def apply(self, x: Chunk, p: NoParams, found: Tensor) -> Tensor:
        """Return the part of the mean, row after row, that a range covers."""
        mean = found / x.signature.first.shape[0]
        skipped = x.start % len(mean)
        times = -(-(skipped + x.out.numel()) // len(mean))
        return x.out.copy_(mean.repeat(times)[skipped : skipped + x.out.numel()])


# not by a decorator: type checkers take a decorated class for the class
mean_of_rows = op("stitch.row_mean_of_rows", models=1, propagates=True)(MeanOfRows)


def as_rows(values: Tensor, start: int, columns: int) -> Tensor:
    """Return a flat range of a matrix as the rows that it touches, float64, zeros where it does not reach."""
    import torch

    skipped = start % columns
    rows = -(-(skipped + len(values)) // columns)
    padded = values.new_zeros(rows * columns, dtype=torch.float64)
    padded[skipped : skipped + len(values)] = values
    return padded.view(rows, columns)
