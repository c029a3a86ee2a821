"""Changes as signs with scales: what delta.bits gathers, stores and reads back.

Of a change τ the first mask is sign(τ), the second sign(τ - c₁·sign(τ)), and so on; together they stand for Σ cₖ·signₖ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from surgery.checkpoint.base import Checkpoint
from surgery.math.bits import pack_bits, unpack_bits
from surgery.math.reduce import dot, exact_sum
from surgery.math.stretch import stretch
from surgery.ops import Chunk
from surgery_delta._checks import checks
from surgery_delta._codec import Signs
from surgery_delta.bits import Bits

Means = list[float]


def magnitude(x: Chunk, p: Bits, means: Means) -> tuple[float, int]:
    """Return Σ|what the masks so far leave| of a block, in float64, and how many weights it is over."""
    left, signs = torch.sub(x.models[0], _base(x), out=x.scratch(0)), x.scratch(1)
    changed = (left != 0) if p.zero == "keep" else None
    for mean in means:
        left.sub_(_signs(left, signs).mul_(mean))
    _signs(left, signs)
    if changed is not None:
        signs.mul_(changed)
    return dot(left, signs), left.numel() if changed is None else int(changed.sum())


def mean(total: Sequence[tuple[float, int]]) -> float:
    """Return the mean of all blocks as it is stored; 0 where there is nothing."""
    count = sum(count for _, count in total)
    return float(np.float32(exact_sum(part for part, _ in total) / count)) if count else 0.0


def coded(x: Chunk, p: Bits, found: Means | None) -> Mapping[str, Tensor]:
    """Return the stored tensors of some rows; without scales that were found every row has its own."""
    base = _base(x)
    left = torch.sub(x.models[0], base)
    changed = (left != 0) if p.zero == "keep" else None
    masks: list[Tensor] = []
    scales: list[Tensor] = []
    for mask in range(p.masks):
        if mask:
            left.sub_(_spread(masks[-1], scales[-1]))
        scales.append(_means_of_rows(left, changed) if found is None else left.new_full((1, 1), found[mask]))
        masks.append(left >= 0)
    name = x.signature.name
    made = {f"{name}.signs": pack_bits(torch.stack(masks, 1)), f"{name}.base": checks(base)}
    if found is None:
        made[f"{name}.scale"] = torch.cat(scales, 1)
    elif x.start == 0:
        made[f"{name}.scale"] = torch.cat(scales, 1)[0]
    if changed is not None:
        made[f"{name}.changed"] = pack_bits(changed)
    return made


def _base(x: Chunk) -> Tensor:
    assert x.base is not None
    return x.base


def _signs(left: Tensor, out: Tensor) -> Tensor:
    """Fill `out` with +1 and -1; the sign of 0 is +1."""
    return out.copy_(left >= 0).mul_(2).sub_(1)


def _spread(signs: Tensor, scale: Tensor) -> Tensor:
    """Return +scale where the sign is set and -scale elsewhere, exactly; three times as fast as a choice."""
    return signs.to(scale.dtype).mul_(2 * scale).sub_(scale)


def _means_of_rows(left: Tensor, changed: Tensor | None) -> Tensor:
    """Return the mean |x| of each row [rows, 1], as it is stored, of the weights that changed."""
    # numpy adds a row in one order, however many rows there are; torch shares long ones among threads
    wide = left.abs().double().cpu().numpy()
    if changed is None:
        sums, counts = np.add.reduce(wide, axis=1), np.full(len(wide), wide.shape[1])
    else:
        kept = changed.cpu().numpy()
        sums, counts = np.add.reduce(wide * kept, axis=1), kept.sum(axis=1)
    means = torch.from_numpy((sums / np.maximum(counts, 1)).astype(np.float32))
    return means.to(left).unsqueeze(1)


def decoded(signs: Signs, source: Checkpoint, first: int, last: int) -> Tensor:
    """Return Σ cₖ·signₖ of some rows, summed in the order of the masks."""
    rows, (_, masks, packed), row = last - first, signs.signs.shape, signs.spec.row
    data = stretch(source, signs.signs, first * masks * packed, rows * masks * packed)
    bits = unpack_bits(data.view(rows, masks, packed), row)
    by_row = len(signs.scale.shape) > 1
    scale = stretch(source, signs.scale, first * masks if by_row else 0, masks * (rows if by_row else 1))
    scale = scale.view(-1, masks, 1)
    total = _spread(bits[:, 0], scale[:, 0])
    for mask in range(1, masks):
        total.add_(_spread(bits[:, mask], scale[:, mask]))
    if signs.changed is not None:
        kept = stretch(source, signs.changed, first * packed, rows * packed)
        total.masked_fill_(~unpack_bits(kept.view(rows, packed), row), 0)
    return total
