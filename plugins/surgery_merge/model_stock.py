"""merge.model_stock: the mean of fine-tunes, moved towards the base by the angle between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from surgery.ops import BASE, Chunk, Params, Reduce, Signature, op
from surgery_merge._common import add_deltas, lacks_base, sum_deltas
from surgery_merge._trim import SPLITS, Scope, pool_of, split_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.gram import Matrix
    from surgery.math.lines import Lines

# Closer than this to its pole the formula says nothing.
_POLE = 1e-6


class ModelStock(Params):
    """Parameters of merge.model_stock."""

    filter_wise: bool = False
    """Take an angle for each row (output of a Linear) instead of one for all; a vector is one row."""

    scope: Scope = "tensor"
    """What an angle is taken over: each tensor, all tensors of a layer (the paper), or the whole model."""

    clamp: bool = True
    """Keep the ratio between the base (0) and the mean (1); false lets negative cosines go beyond the base."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.filter_wise and self.scope != "tensor":
            raise ValueError(
                f"`filter_wise` takes an angle for each row, `scope: {self.scope}` one for many tensors; keep one"
            )
        return self


def ratios(G: Matrix, *, clamp: bool) -> Matrix:
    """Return t = T·c/(1 + (T-1)·c) for the mean cosine c of the pairs of deltas with inner products G [..., T, T]."""
    import numpy as np

    from surgery.math.gram import mean_cosine

    count, cosine = G.shape[-1], mean_cosine(G)
    if clamp:
        cosine = np.maximum(cosine, 0.0)
    below = 1 + (count - 1) * cosine
    known = ~(abs(below) < _POLE)
    return np.asarray(np.divide(count * cosine, below, out=np.zeros_like(cosine), where=known))


def _lines(signature: Signature) -> Lines:
    from surgery.math.lines import lines_of

    return lines_of(signature.first.shape, "rows")


def _same(signature: Signature, p: ModelStock) -> int | None:
    """Return the base for a single model: there is no angle."""
    return BASE if len(signature.models) < 2 else None


@op(
    "merge.model_stock",
    split=split_of,
    splits=SPLITS,
    pool=pool_of,
    params=ModelStock,
    base="required",
    models=(2, None),
    simplify=_same,
    check=lambda signature, p: lacks_base(signature),
    buffers=1,
    cite="Jang et al. 2024, Model Stock: All we need is just a few fine-tuned models, arXiv:2403.19522, equation 4",
)
class ModelStockOp(Reduce):
    """Interpolate between the base and the mean of fine-tunes: θ0 + t·mean(θ - θ0), t = T·c/(1 + (T-1)·c).

    c is the mean cosine over all pairs of deltas (the paper has two models and one angle), from products summed in
    float64. Deltas that are 0 have no angle: their pairs are left out; t is 0 if no pair is left. Meant for fine-tunes
    of one base on the same task: they agree in what is not noise.
    """

    def gather(self, x: Chunk, p: ModelStock, found: None) -> Any:
        """Return the inner products of the deltas over one block, by row if `filter_wise`."""
        from surgery.math.lines import line_gram
        from surgery.math.reduce import gram

        if p.filter_wise:
            return line_gram(x.models, _lines(x.signature), x.start, x.base)
        return [gram(x.models, x.base)]

    def fold(self, total: Any, part: Any) -> Any:
        """Collect the blocks' products, to be added when all are there."""
        total += part
        return total

    def solve(self, signature: Signature, p: ModelStock, total: Any, found: None) -> Matrix:
        """Return t, for each row if `filter_wise`."""
        from surgery.math import gram

        G = gram.symmetric(total.total(_lines(signature))) if p.filter_wise else gram.total(total)
        return ratios(G, clamp=p.clamp)

    def notes(self, signature: Signature, p: ModelStock, found: Matrix) -> Mapping[str, float]:
        """Return t where it is one for a tensor; of NaN that are kept there is none."""
        return {} if p.filter_wise or not math.isfinite(float(found)) else {"ratio": float(found)}

    def apply(self, x: Chunk, p: ModelStock, found: Matrix) -> Tensor:
        """Return the base plus t times the mean delta."""
        import torch

        count = len(x.models)
        if not p.filter_wise:
            return add_deltas(x, [1.0] * count, float(found) / count)
        assert x.base is not None
        total = sum_deltas(x, [1.0] * count)
        return torch.addcmul(
            x.base, total, _lines(x.signature).spread(found / count, x.start, total), out=total
        )
