"""Rounding to integers with a scale, and a zero point, for every group of neighbours in a row.

Symmetric (compressed-tensors): s = max|w| / ((2^b - 1) / 2), q = clamp(round(w / s), -2^(b-1), 2^(b-1) - 1).
Asymmetric: lo = min(w, 0), hi = max(w, 0), s = (hi - lo) / (2^b - 1), z = clamp(round(qmin - lo / s)),
q = clamp(round(w / s) + z). Scales are rounded to their stored dtype before codes are computed from them; ties round
to even.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgery.math.packing import pack
from surgery.ops import Chunk
from surgery_quant._scheme import Scheme, scale_dtype

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The search for a smaller range, as llm-compressor's MSE observer has it; it also stops after 5 steps without a gain
# anywhere in the tensor, which would make a row's scale depend on other rows.
_STEPS: Final = 20
_GRID: Final = 100
_NORM: Final = 2.4


@dataclass(frozen=True, slots=True)
class Grid:
    """Scales and zero points of groups, [rows, groups, 1], in float32 as they are stored; no zero points: symmetric."""

    scale: Tensor
    zero: Tensor | None


def quantize(x: Chunk, p: Scheme) -> dict[str, Tensor]:
    """Return the stored tensors of some rows [rows, inputs]: codes, scales, zero points, and the shape once."""
    import torch

    from surgery.math.convert import torch_dtype

    rows = x.models[0]
    grouped = rows.view(len(rows), -1, p.group_size or rows.shape[1])
    stored = torch_dtype(scale_dtype(x.signature))
    grid = _searched(grouped, p, stored) if p.scales == "mse" else _grid(*_range(grouped, p), p, stored)
    codes = _codes(grouped, grid, p, x.out.view(grouped.shape)).view(rows.shape)
    stem = x.signature.name.removesuffix("weight")
    made = {f"{stem}weight_scale": grid.scale.squeeze(-1).to(stored)}
    if not p.packed:
        return made | {x.signature.name: codes.to(torch.int8)}
    low = 1 << (p.bits - 1)
    # bytes wrap around: -8 is stored as 248, and 248 + 8 as 0; torch has a faster way to signed bytes than to others
    made[f"{stem}weight_packed"] = pack(codes.to(torch.int8).view(torch.uint8).add_(low), p.bits)
    if grid.zero is not None:
        made[f"{stem}weight_zero_point"] = pack(
            grid.zero.squeeze(-1).add(low).to(torch.uint8), p.bits, axis=0
        )
    if x.start == 0:
        made[f"{stem}weight_shape"] = torch.tensor(x.signature.first.shape, dtype=torch.int64)
    return made


def _range(grouped: Tensor, p: Scheme) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest number that each group's codes cover, 0 among them."""
    # aminmax finds both in one pass over the last dimension, five times slower than these two
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    if p.symmetric:
        high = high.maximum(-low)
        return -high, high
    return low.clamp_(max=0), high.clamp_(min=0)


def _grid(low: Tensor, high: Tensor, p: Scheme, stored: torch.dtype) -> Grid:
    """Return scales and zero points for ranges; a group of zeros has scale 1."""
    scale = ((high - low) / ((1 << p.bits) - 1)).to(stored).to(low.dtype)
    scale.masked_fill_(scale == 0, 1.0)
    if p.symmetric:
        return Grid(scale, None)
    least = -(1 << (p.bits - 1))
    return Grid(scale, (least - low / scale).round_().clamp_(least, -least - 1))


def _codes(grouped: Tensor, grid: Grid, p: Scheme, out: Tensor) -> Tensor:
    """Return the codes of weights, as floats in `out`."""
    import torch

    least = -(1 << (p.bits - 1))
    torch.div(grouped, grid.scale, out=out).round_()
    if grid.zero is not None:
        out.add_(grid.zero)
    return out.clamp_(least, -least - 1)


def _searched(grouped: Tensor, p: Scheme, stored: torch.dtype) -> Grid:
    """Return for each group the range, shrunk by 0 to 19 %, with the least sum of |error|^2.4."""
    import torch

    low, high = _range(grouped, p)
    best: Tensor | None = None
    scale = zero = low
    out = torch.empty_like(grouped)
    for shrink in _shrinks():
        grid = _grid(low * shrink, high * shrink, p, stored)
        values = _codes(grouped, grid, p, out)
        if grid.zero is not None:
            values.sub_(grid.zero)
        error = values.mul_(grid.scale).sub_(grouped).abs_().pow_(_NORM).sum(-1, keepdim=True)
        if best is None:
            best, scale, zero = error, grid.scale, grid.zero if grid.zero is not None else low
            continue
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, grid.scale, scale)
        zero = torch.where(better, grid.zero, zero) if grid.zero is not None else zero
    return Grid(scale, None if p.symmetric else zero)


def _shrinks() -> Iterator[float]:
    return (1 - step / _GRID for step in range(_STEPS))
