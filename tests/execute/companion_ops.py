"""Ops that want a tensor beside each model's, of every split that may: loaded as a plugin."""

from __future__ import annotations

from typing import Literal

from surgery.ops import Companion, Params, Reduce, Split, op


class Cut(Params):
    split: Literal["element", "row", "tensor", "reduce", "model"] = "element"


class Beside(Params):
    by: str | None = None


SAME = {"by": Companion(lambda signature, p: signature.first.shape, without="taken as they are")}


def scaled(model, by):
    return model.clone() if by is None else model * by


@op(
    "near.sum",
    split=lambda p: Split(p.split),
    splits=(Split.ELEMENT, Split.ROW, Split.TENSOR),
    params=Cut,
    each=Beside,
    base="optional",
    companions=SAME,
)
def total(x, p):
    """Add up models, each multiplied by what stands beside it."""
    found = sum(scaled(m, by) for m, by in zip(x.models, x.companions["by"], strict=True))
    return found if x.base is None else found + x.base


@op(
    "near.norm",
    split=lambda p: Split(p.split),
    splits=(Split.REDUCE, Split.MODEL),
    params=Cut,
    each=Beside,
    companions=SAME,
)
class Norm(Reduce):
    """Multiply by the largest of what stands beside the models, over a tensor or a model."""

    def gather(self, x, p, found):
        """Return a block's largest."""
        return max((float(by.abs().max()) for by in x.companions["by"] if by is not None), default=0.0)

    def fold(self, total, part):
        """Return the larger one."""
        return max(total, part)

    def apply(self, x, p, found):
        """Multiply a range of the first model."""
        return x.models[0] * found


@op(
    "near.square",
    split=Split.TENSOR,
    each=Beside,
    companions={"by": Companion(lambda signature, p: (signature.first.shape[-1],) * 2)},
)
def square(x, p):
    """Multiply the first model by the square that stands beside it."""
    return x.models[0] @ x.companions["by"][0]


@op("near.writes", each=Beside, companions=SAME)
def writes(x, p):
    """Write to what stands beside the model."""
    return x.companions["by"][0].mul_(2)
