"""Ops that note numbers, of every split that may, and some that break the contract: loaded as a plugin."""

from __future__ import annotations

from typing import Literal

from surgery.ops import Group, Params, Part, Reduce, Space, Split, op
from surgery.tensors import TensorSpec


class Noting(Params):
    split: Literal["tensor", "element", "row"] = "tensor"
    as_: str = "largest"
    times: int = 1
    fail_on: str = ""


@op(
    "note.largest",
    split=lambda p: Split(p.split),
    splits=(Split.TENSOR, Split.ELEMENT, Split.ROW),
    params=Noting,
)
def largest(x, p):
    """Copy the first model and note its largest number."""
    if p.fail_on == x.signature.name:
        raise RuntimeError("as told")
    for _ in range(p.times):
        x.note(p.as_, x.models[0].max())
    return x.models[0].clone()


@op("note.plain", split=Split.TENSOR)
def plain(x, p):
    """Copy the first model and note nothing."""
    return x.models[0].clone()


@op("note.pairs")
class Pairs(Group):
    """Add the sum of all tensors to each, and note each one's own."""

    def key(self, tensor, params):
        """Return the same for all."""
        return "all"

    def apply(self, members, params):
        """Return the sums."""
        total = sum(float(x.models[0].sum()) for x in members.values())
        for x in members.values():
            x.note("own", float(x.models[0].sum()))
        return {name: x.models[0] + total for name, x in members.items()}


class Where(Params):
    split: Literal["reduce", "model"] = "reduce"
    tell: Literal["size", "nothing", "nan"] = "size"


@op("note.sum", split=lambda p: Split(p.split), splits=(Split.REDUCE, Split.MODEL), params=Where)
class Sum(Reduce):
    """Add the sum over a tensor or a model, and note it with the elements."""

    def gather(self, x, p, found):
        """Return a block's sum."""
        return float(x.models[0].sum())

    def solve(self, signature, p, total, found):
        """Return the sum, or nothing."""
        return None if p.tell == "nothing" else total

    def notes(self, signature, p, found):
        """Return the sum, and over how many elements."""
        return {"sum": float("nan") if p.tell == "nan" else found, "elements": signature.numel}

    def apply(self, x, p, found):
        """Return the range with the sum added."""
        return x.models[0] + (found or 0)


@op(
    "note.halves",
    split=Split.TENSOR,
    models=1,
    gives=Space.PACKED,
    emits=lambda s, p: [Part(TensorSpec(f"{s.name}.{part}", (2,), "F32"), rows=0) for part in "ab"],
)
def halves(x, p):
    """Store the first and the last two numbers, and note the first."""
    flat = x.models[0].reshape(-1)
    x.note("first", flat[0])
    return {f"{x.signature.name}.a": flat[:2].clone(), f"{x.signature.name}.b": flat[-2:].clone()}
