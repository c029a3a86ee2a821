"""Rows drawn around the mean of all rows, with their covariance, without ever holding a covariance matrix.

With g_i normal and independent, m the mean and n the number of rows x_i,

    m + sqrt(s / (n-1)) · Σ_i g_i (x_i - m)

has mean m and covariance s·C, where C is the rows' own: one pass over the rows serves any number of draws.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgery.ops import Chunk, Params, Reduce, Signature, op
from surgery_stitch._rows import as_rows

if TYPE_CHECKING:
    from torch import Tensor


class Noise(Params):
    """Which draws: `count` rows, from draw `first` on; `scale` is a share of the covariance."""

    count: int
    first: int
    scale: float
    seed: int


class NoiseOfRows(Reduce):
    """The first rows are drawn around the mean of all rows, with their covariance times a scale; others are zero."""

    def gather(self, x: Chunk, p: Noise, found: None) -> Tensor:
        """Return a block's sums of rows, weighted by each draw's normal numbers and, in the last row, by one."""
        import torch

        columns = x.signature.first.row
        rows = as_rows(x.models[0], x.start, columns)
        weights = normals(x.signature, p, x.start // columns, len(rows))
        ones = torch.ones(1, len(rows), dtype=torch.float64, device=rows.device)
        return torch.cat([weights.to(rows.device), ones]) @ rows

    def solve(self, signature: Signature, p: Noise, total: Tensor, found: None) -> Tensor:
        """Return the rows that are drawn."""
        import torch

        count = signature.first.shape[0]
        weight = torch.zeros(p.count, dtype=torch.float64)
        for start in range(0, count, _ROWS):
            weight += normals(signature, p, start, min(_ROWS, count - start)).sum(1)
        mean = total[-1] / count
        spread = math.sqrt(p.scale / max(count - 1, 1))
        return mean + spread * (total[:-1] - weight.to(mean.device)[:, None] * mean)

    def apply(self, x: Chunk, p: Noise, found: Tensor) -> Tensor:
        """Return what a range covers of the rows that are drawn."""
        drawn = found.reshape(-1)[x.start : x.start + x.out.numel()]
        x.out.zero_()[: len(drawn)].copy_(drawn)
        return x.out


noise_of_rows = op("stitch.row_noise", models=1, params=Noise, propagates=True)(NoiseOfRows)

_ROWS = 1 << 12  # rows whose numbers are drawn at a time


def normals(signature: Signature, p: Noise, start: int, rows: int) -> Tensor:
    """Return normal numbers [count, rows], a function of seed, tensor, row and draw alone (Box and Muller 1958)."""
    import torch

    from surgery.math.random import stream_key, uniform

    pairs = torch.empty(2, p.count, rows, dtype=torch.float64)
    for i, half in enumerate(pairs):
        for draw, u in enumerate(half, start=p.first):
            uniform(stream_key(p.seed, "stitch.row_noise", signature.name, 2 * draw + i), start, u)
    return torch.sqrt(-2 * torch.log1p(-pairs[0])) * torch.cos(2 * math.pi * pairs[1])
