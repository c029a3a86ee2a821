"""Whether a delta is added to the weights that it was taken of: 32 bits for every block of the base's rows.

A check is the sum of the block's float32 bit patterns, read as signed integers, modulo 2³². Of another base it is the
same by chance once in four billion blocks. It does not depend on how the base is stored: bfloat16 and the same numbers
in float32 have the same checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery_delta._stored import block_rows

if TYPE_CHECKING:
    from torch import Tensor


def checks(base: Tensor) -> Tensor:
    """Return the checks of rows [rows, row] of a base, the first of which begins a block: int32 [blocks]."""
    import torch
    from torch.nn.functional import pad

    per = block_rows(base.shape[1])
    sums = base.to(torch.float32).contiguous().view(torch.int32).sum(1, dtype=torch.int64)
    return pad(sums, (0, -len(sums) % per)).view(-1, per).sum(1).to(torch.int32)
