"""shrink.clip: keep a model's delta within a multiple of its root mean square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import surgery

if TYPE_CHECKING:
    from torch import Tensor


class Clip(surgery.Params):
    """Parameters of shrink.clip."""

    at: surgery.Scalar = 1.0
    """Largest change allowed, in root mean squares of the delta."""


@surgery.op("shrink.clip", params=Clip, base="required", models=1)
class ClipOp(surgery.Reduce):
    """Clip a model's delta at a multiple of its root mean square."""

    def gather(self, x: surgery.Chunk, p: Clip, found: None) -> float:
        """Return a block's sum of squares."""
        from surgery.math.reduce import squared_norm

        assert x.base is not None
        return squared_norm(x.models[0] - x.base)

    def apply(self, x: surgery.Chunk, p: Clip, found: float) -> Tensor:
        """Return the range with its delta clipped."""
        assert x.base is not None
        limit = p.at * float(found / x.signature.numel) ** 0.5
        return x.base + (x.models[0] - x.base).clamp_(-limit, limit)
