"""Which elements stay of those whose |τ| equals a threshold, where exactly k should: the first ones, or random ones.

    above the threshold     all stay
    equal to it             k less those above stay: of the lowest index, or each with the share that this is
    below it                dropped

The lowest index takes two passes: how many equals each block has, then where in its block the last one lies that stays.
Tensors that are compared with one another come in the order of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from surgery.ops import Chunk
from surgery_merge._common import subtract
from surgery_merge._ranks import below, up_to

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Threshold


@dataclass(frozen=True, slots=True)
class Share:
    """Each of the equals stays with this probability."""

    probability: float


@dataclass(frozen=True, slots=True)
class Within:
    """The last of the equals that stays is the `rank`-th one, counted from 1, of the block that begins at `start`."""

    name: str
    start: int
    rank: int


@dataclass(frozen=True, slots=True)
class UpTo:
    """Equals stay up to this element of this tensor."""

    name: str
    index: int


Rule = Share | Within | UpTo


@dataclass(frozen=True, slots=True)
class Seen:
    """What a block tells of each model's equals: (tensor, block's start, how many) or their one `UpTo`."""

    counts: list[list[tuple[str, int, int]]]
    last: list[list[UpTo]]

    def add(self, other: Seen) -> Seen:
        """Collect what another block tells."""
        for mine, more in zip((*self.counts, *self.last), (*other.counts, *other.last), strict=True):
            mine += more  # type: ignore[operator]
        return self


def surplus(threshold: Threshold | None, k: int) -> bool:
    """Return whether more elements than `k` would stay; of zeros it does not matter."""
    return threshold is not None and threshold.bits > 0 and k < threshold.above + threshold.equal


def share(threshold: Threshold, k: int) -> Share:
    """Return with what probability equals stay, so that k elements do on average."""
    return Share((k - threshold.above) / threshold.equal)


def gather(x: Chunk, thresholds: Sequence[Threshold | None], rules: Sequence[Rule | None]) -> Seen:
    """Return what a block tells of those models' equals that have a threshold; uses scratch buffer 0."""
    seen = Seen([[] for _ in thresholds], [[] for _ in thresholds])
    for index, (threshold, rule) in enumerate(zip(thresholds, rules, strict=True)):
        here = (x.signature.name, x.start)
        if threshold is None or (isinstance(rule, Within) and (rule.name, rule.start) != here):
            continue
        equals = _equals(subtract(x, index, x.scratch(0)), threshold)
        if isinstance(rule, Within):
            seen.last[index].append(UpTo(rule.name, x.start + int(equals.nonzero()[rule.rank - 1])))
        else:
            seen.counts[index].append((*here, int(equals.sum())))
    return seen


def solve(
    seen: Seen, thresholds: Sequence[Threshold | None], ks: Sequence[int], rules: Sequence[Rule | None]
) -> list[Rule | None]:
    """Return in which block the last of each model's equals is that stays; then which it is."""
    if any(rules):
        return [last[0] if last else None for last in seen.last]
    return [
        None if threshold is None else _within(counts, k - threshold.above)
        for counts, threshold, k in zip(seen.counts, thresholds, ks, strict=True)
    ]


def writer(
    x: Chunk, index: int, threshold: Threshold | None, rule: Rule | None
) -> Callable[[Tensor], Tensor]:
    """Return what fills a buffer with a model's delta, 0 for the equals that do not stay; uses scratch buffer 1."""
    if threshold is None or rule is None:
        return partial(subtract, x, index)
    if isinstance(rule, Share):
        return partial(_masked, x, index, _survivors(x, index, threshold, rule))
    assert isinstance(rule, UpTo)
    name, numel = x.signature.name, x.models[index].numel()
    staying = rule.index + 1 - x.start if name == rule.name else numel if name < rule.name else 0
    edge = up_to(threshold, double=x.models[index].element_size() == 8)
    return partial(_cut_behind, x, index, min(max(staying, 0), numel), edge)


def _within(counts: list[tuple[str, int, int]], needed: int) -> Within:
    for name, start, count in sorted(counts):
        if needed <= count:
            return Within(name, start, needed)
        needed -= count
    raise AssertionError("the blocks hold all equals that the threshold counts")


def _equals(delta: Tensor, threshold: Threshold) -> Tensor:
    """Return where |x| is the threshold when it is rounded to float32, as bool; changes `delta`."""
    double = delta.element_size() == 8
    delta.abs_()
    return (delta > below(threshold, double=double)) & (delta <= up_to(threshold, double=double))


def _survivors(x: Chunk, index: int, threshold: Threshold, rule: Share) -> Tensor:
    """Return where an element is no equal, or one that was drawn to stay; bool."""
    equals = _equals(subtract(x, index, x.scratch(1)), threshold)
    return x.keep(rule.probability, x.signature.place(index)).logical_or_(equals.logical_not_())


def _masked(x: Chunk, index: int, kept: Tensor, out: Tensor) -> Tensor:
    from surgery.math.masks import drop

    return drop(subtract(x, index, out), kept)


def _cut_behind(x: Chunk, index: int, staying: int, edge: float, out: Tensor) -> Tensor:
    """Fill `out` with a delta; behind the first `staying` elements only what is above the edge."""
    import torch

    behind = subtract(x, index, out)[staying:]
    torch.hardshrink(behind, edge, out=behind)
    return out
