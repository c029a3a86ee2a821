"""Changes as integers with a scale for every group: what delta.quantize stores and reads back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from surgery.checkpoint.base import Checkpoint
from surgery.math.packing import pack, unpack
from surgery.math.stretch import stretch
from surgery.ops import Chunk
from surgery_delta._checks import checks
from surgery_delta._codec import Groups
from surgery_delta.quantize import Quantize


def coded(x: Chunk, p: Quantize) -> Mapping[str, Tensor]:
    """Return the stored tensors of some rows."""
    assert x.base is not None
    delta, name, low = x.models[0] - x.base, x.signature.name, 1 << (p.bits - 1)
    grouped = _grouped(delta, p.group_size or delta.shape[1])
    scale = (grouped.abs().amax(-1) / (low - 0.5)).to(torch.bfloat16)
    wide = scale.to(delta.dtype).unsqueeze(-1)
    codes = (grouped / wide.masked_fill(wide == 0, 1)).round_().clamp_(-low, low - 1)
    flat = codes.flatten(1)[:, : delta.shape[1]].nan_to_num_()  # of NaN the scale tells
    return {
        f"{name}.codes": pack(flat.to(torch.int32).add_(low).to(torch.uint8), p.bits),
        f"{name}.scale": scale,
        f"{name}.base": checks(x.base),
    }


def _grouped(rows: Tensor, size: int) -> Tensor:
    """Return rows [rows, row] in groups [rows, groups, size], the last filled up with zeros."""
    return pad(rows, (0, -rows.shape[1] % size)).view(len(rows), -1, size)


def decoded(coded: Groups, source: Checkpoint, first: int, last: int) -> Tensor:
    """Return codes times scales of some rows."""
    rows, words, groups = last - first, coded.codes.row, coded.scale.row
    stored = stretch(source, coded.codes, first * words, rows * words).view(rows, words)
    values = unpack(stored, coded.bits, coded.spec.row).sub_(1 << (coded.bits - 1)).to(torch.float32)
    scale = stretch(source, coded.scale, first * groups, rows * groups).view(rows, groups, 1)
    product = _grouped(values, coded.size).mul_(scale.to(torch.float32))
    return product.flatten(1)[:, : coded.spec.row]
