"""A layout op that says rows of several tensors, and of what ops make of them, in any order: loaded as a plugin."""

from __future__ import annotations

import torch

from surgery.layout import Call, Layout, Stack, Take
from surgery.ops import NoParams, Params, Reduce, Split, layout_op, op
from surgery.tensors import TensorSpec

INDEX = [8, 3, 4, 5, 0, 0, 7, 2, 9, 10]  # of 6 rows of a, then 6 of b


@op("t.double", models=1)
def double(x, p):
    """Double."""
    return x.models[0] * 2


@op("t.flip", split=Split.ROW, models=1)
def flip(x, p):
    """Turn rows around."""
    return x.models[0].flip(1)


@op(
    "t.join",
    split=Split.TENSOR,
    models=2,
    infer=lambda s, p: TensorSpec(s.name, (2, s.models[0].shape[1]), "F32"),
)
def join(x, p):
    """The sums of rows of two tensors of any lengths."""
    return torch.stack([x.models[0].sum(0), x.models[1].sum(0)])


class Sum(Reduce):
    """Every element is the sum of all."""

    def gather(self, x, p, found):
        """Return a block's sum."""
        return x.models[0].double().sum()

    def apply(self, x, p, found):
        """Return the sum."""
        return x.out.fill_(float(found))


total = op("t.sum", models=1)(Sum)
A, B = Take("a", "w"), Take("b", "w")


class Which(Params):
    """Which layout."""

    piece: str = "plain"


def call(made, *parts):
    return Call(made, parts, NoParams())


PIECES = {
    "plain": Stack([A, B], INDEX),
    "computed": Stack([A, call(double, B)], INDEX),
    "rows": Stack([call(flip, A), B], INDEX),
    "reduced": Stack([A, *[call(total, Stack([A, B], [0, 11]))] * 3], INDEX),
    "joined": Stack([A, call(join, A, Stack([B], [1, 1, 0])), B], [*INDEX, 13]),
    "nested": Stack([Stack([B, A], [11, 0, 5, 6]), Take("b", "w", (2, 4))], [3, 2, 1, 0, 5, 4]),
}


@layout_op("toy.lay", params=Which, models=2)
def lay(models, p):
    """Lay out a tensor."""
    return Layout({"w": PIECES[p.piece]}, {})
