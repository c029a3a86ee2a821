"""merge.nuslerp: slerp between two models by their weights, tensor by tensor, row by row or column by column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from surgery.ops import Chunk, Params, Reduce, Signature, op
from surgery.scalars import Scalar
from surgery_merge._common import add_deltas, subtract, weighted_sum, weights_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.gram import Matrix
    from surgery.math.lines import Lines

# Weights whose sum is closer to 0 than this have no ratio: half way is taken, as mergekit does.
_CANCELLED = 1e-6
_STRAIGHT = 1e-8  # sines below this: the vectors lie on one line


class Nuslerp(Params):
    """Parameters of merge.nuslerp."""

    flatten: bool = True
    """Take one angle for the whole tensor; false takes one for every row or column."""

    axis: Literal["rows", "columns"] = "rows"
    """What has an angle of its own if `flatten` is false: rows (outputs of a Linear) or columns (its inputs)."""


class NuslerpModel(Params):
    """Parameters of each model of merge.nuslerp."""

    weight: Scalar
    """How much the model counts beside the other; their ratio alone matters."""


def arc(t: float, aa: Matrix, ab: Matrix, bb: Matrix) -> tuple[Matrix, Matrix]:
    """Return what a and b are multiplied with to go the share t of the arc between them, from their inner products.

    sin((1-t)Ω)/sin Ω and sin(tΩ)/sin Ω, for as many pairs as are given; 1-t and t where one is 0 or both lie on a line.
    """
    import numpy as np

    lengths = np.sqrt(aa) * np.sqrt(bb)
    cosine = np.divide(ab, lengths, out=np.ones_like(ab), where=~(lengths == 0))
    omega = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(omega)
    curved = ~(sine < _STRAIGHT)
    return (
        np.divide(np.sin((1 - t) * omega), sine, out=np.full_like(sine, 1 - t), where=curved),
        np.divide(np.sin(t * omega), sine, out=np.full_like(sine, t), where=curved),
    )


def _t(signature: Signature) -> float:
    """Return the share of the way to the second model."""
    first, second = weights_of(signature)
    return second / (first + second) if abs(first + second) >= _CANCELLED else 0.5


def _same(signature: Signature, p: Nuslerp) -> int | None:
    """Return the end that is the result; a model that alone has a tensor gives it whole."""
    if len(signature.models) == 1:
        return 0
    t = _t(signature)
    return int(t) if t in (0, 1) else None


def _lines(signature: Signature, p: Nuslerp) -> Lines:
    from surgery.math.lines import lines_of

    return lines_of(signature.first.shape, p.axis)


@op(
    "merge.nuslerp",
    params=Nuslerp,
    each=NuslerpModel,
    base="optional",
    models=2,
    simplify=_same,
    buffers=1,
    cite="Shoemake 1985, Animating rotation with quaternion curves; "
    "Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257",
)
class NuslerpOp(Reduce):
    """Interpolate two models spherically by their weights: merge.slerp at t = w₂/(w₁ + w₂), wherever there is an arc.

    With a base the differences to it are interpolated, and it is added back. With `flatten: false` every row, or every
    column, has an angle of its own; a vector counts as one, stacked matrices (three dimensions) are taken one by one,
    and of a convolution's kernel all but the first dimension make a row. Rows on one line, or 0, are interpolated
    straight. Weights that sum to 0 (to 1e-6) meet half way.
    """

    def gather(self, x: Chunk, p: Nuslerp, found: None) -> Any:
        """Return the three inner products over one block, of each line if they are kept apart."""
        from surgery.math.lines import line_gram
        from surgery.math.reduce import gram

        if p.flatten:
            return [gram(x.models, x.base)]
        return line_gram(x.models, _lines(x.signature, p), x.start, x.base)

    def fold(self, total: Any, part: Any) -> Any:
        """Collect the blocks' products, to be added when all are there."""
        total += part
        return total

    def solve(self, signature: Signature, p: Nuslerp, total: Any, found: None) -> tuple[Matrix, Matrix]:
        """Return what the two models are multiplied with, for each line."""
        from surgery.math import gram

        if p.flatten:
            G = gram.total(total)
            return arc(_t(signature), G[:1, 0], G[:1, 1], G[1:, 1])
        return arc(_t(signature), *total.total(_lines(signature, p)).T)

    def apply(self, x: Chunk, p: Nuslerp, found: tuple[Matrix, Matrix]) -> Tensor:
        """Return the weighted sum of the models, or the base and that of their deltas."""
        if p.flatten:
            shares = [float(values[0]) for values in found]
            return weighted_sum(x.models, shares, x.out) if x.base is None else add_deltas(x, shares, 1.0)
        return _by_line(x, [_lines(x.signature, p).spread(values, x.start, x.out) for values in found])


def _by_line(x: Chunk, shares: list[Tensor]) -> Tensor:
    """Return the sum of the models, or of the base and their deltas, with a number for every element."""
    import torch

    if x.base is None:
        return torch.mul(x.models[0], shares[0], out=x.out).addcmul_(x.models[1], shares[1])
    out = subtract(x, 0, x.out).mul_(shares[0])
    return out.addcmul_(subtract(x, 1, x.scratch(0)), shares[1]).add_(x.base)
