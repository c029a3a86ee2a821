"""merge.arcee_fusion: a model's weights where its changes stand out, the base's elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from surgery.ops import BASE, Chunk, NoParams, Reduce, Scan, Signature, op
from surgery_merge._common import lacks_base, subtract

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.count import Bracket, Counted
    from surgery.math.gram import Matrix
    from surgery.math.lines import Lines
    from surgery.math.select import Threshold

_FLOOR: Final = 1e-8  # added to every probability

# Below these a block's part is computed in float32, whose digits suffice: see `_close`.
_CLOSE: Final = 2.0**-5  # change of an element
_LONG: Final = 64  # elements of a row at least
_SERIES: Final = (
    1 / 2,
    -1 / 6,
    1 / 12,
    -1 / 20,
    1 / 30,
    -1 / 42,
)  # ((1 + u)·log(1 + u) - u)/u² for |u| < 0.07


@dataclass(frozen=True, slots=True)
class Partition:
    """log Σ exp of each row of the base, and how much more it is of the model's."""

    base: Matrix
    more: Matrix


@dataclass(frozen=True, slots=True)
class Sums:
    """What a block says of the rows that it touches, from row `first` on: the largest of each, and Σ exp(θ - largest).

    `more` is Σ exp(θ0 - largest of θ0)·(exp(θ - θ0) - 1): of siblings log Σ exp agree in nearly all digits, and this
    is what is left. NaN where it was not needed.
    """

    first: int
    base: tuple[Matrix, Matrix]
    model: tuple[Matrix, Matrix]
    more: Matrix


@dataclass(frozen=True, slots=True)
class Search:
    """Each row's divergence, and the quartiles of all scores, or where they are looked for."""

    divergence: Matrix
    quartiles: tuple[Bracket | Threshold, ...]


@op(
    "merge.arcee_fusion",
    base="required",
    models=1,
    simplify=lambda signature, p: None if signature.numel else BASE,
    check=lambda signature, p: lacks_base(signature),
    version=2,
    buffers=3,
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models, arXiv:2403.13257",
)
class ArceeFusionOp(Reduce):
    """Take the model's weight where |θ - θ0|·D is at least median + 1.5·(q3 - q1) of all, else the base's.

    D is the divergence KL(softmax(θ) ‖ softmax(θ0)) of the row (output of a Linear; a vector is one row), with 1e-8
    added to both probabilities, in float64, or to seven digits where all changes are small. Quartiles are order
    statistics ⌊q·(n - 1)⌋ of a tensor's n scores, exact for any n. A product of a vendor; no paper says why. It
    reads its inputs four or five times: row sums, divergences, the quartiles in one pass or two, the result.
    """

    gathers = 4

    def scan(self, signature: Signature, p: NoParams, found: Any, done: int) -> Scan | None:
        """Read all until the quartiles are known."""
        from surgery.math.select import Bracket

        if not isinstance(found, Search):
            return Scan.ALL
        return Scan.ALL if any(isinstance(known, Bracket) for known in found.quartiles) else None

    def gather(self, x: Chunk, p: NoParams, found: Any) -> Any:
        """Return a block's part of the row sums, then of the divergences, then of the counts of scores."""
        if found is None:
            return [_row_sums(x)]
        return [_divergences(x, found)] if isinstance(found, Partition) else _counts(x, found)

    def fold(self, total: Any, part: Any) -> Any:
        """Collect what is said of rows; add counts up."""
        if isinstance(total, list):
            total += part
            return total
        return {bracket: counted.add(part[bracket]) for bracket, counted in total.items()}

    def solve(self, signature: Signature, p: NoParams, total: Any, found: Any) -> Partition | Search:
        """Return what the next pass needs."""
        from surgery.math.select import FULL

        rows = _rows(signature).count
        if found is None:
            return _partition(total, rows)
        if isinstance(found, Partition):
            return Search(_scaled(total, rows), (FULL,) * 3)
        return Search(found.divergence, _refined(total, found, signature.numel))

    def apply(self, x: Chunk, p: NoParams, found: Search) -> Tensor:
        """Return the model's weights where scores reach the threshold, else the base's."""
        import torch

        assert x.base is not None
        kept = _scores(x, found.divergence).float() >= _threshold(found)
        return torch.where(kept, x.models[0], x.base, out=x.out)


def _rows(signature: Signature) -> Lines:
    from surgery.math.lines import lines_of

    return lines_of(signature.first.shape, "rows")


def _close(x: Chunk, changes: Tensor) -> bool:
    """Return whether float32 gives a block's divergences to seven digits: long rows, small changes of all elements."""
    import torch

    if changes.dtype != torch.float32 or _rows(x.signature).length < _LONG:
        return False
    least, most = torch.aminmax(changes)
    return max(-float(least), float(most)) <= _CLOSE


def _row_sums(x: Chunk) -> Sums:
    import numpy as np

    assert x.base is not None
    rows, changes = _rows(x.signature), subtract(x, 0, x.scratch(0))
    first, count = rows.covered(x.start, changes.numel())
    if not _close(x, changes):
        base, model = (_powers(rows, x.start, tensor.double()) for tensor in (x.base, x.models[0]))
        return Sums(first, base, model, np.full(count, np.nan))
    largest = rows.largest(x.base, x.start)
    powers = rows.less(x.base, largest, x.start, x.scratch(1), first).exp_()
    total = rows.sums(powers, x.start)
    more = rows.sums(powers.mul_(changes.expm1_()), x.start)
    return Sums(first, (largest, total), (largest, total + more), more)


def _powers(rows: Lines, start: int, values: Tensor) -> tuple[Matrix, Matrix]:
    """Return each row's largest in a range, and Σ exp(value - largest)."""
    largest = rows.largest(values, start)
    first, _ = rows.covered(start, values.numel())
    return largest, rows.sums((values - rows.spread(largest, start, values, first)).exp_(), start)


def _partition(parts: list[Sums], rows: int) -> Partition:
    """Return log Σ exp of the base's rows, and what the model's have more."""
    import numpy as np

    base, total = _joined([(part.first, *part.base) for part in parts], rows)
    model, model_total = _joined([(part.first, *part.model) for part in parts], rows)
    more = np.zeros(rows)
    for part in parts:
        here = slice(part.first, part.first + len(part.more))
        more[here] += part.more * np.exp(part.base[0] - base[here])
    apart = model + np.log(model_total) - base - np.log(total)
    return Partition(base + np.log(total), np.where(np.isnan(more), apart, np.log1p(more / total)))


def _joined(parts: list[tuple[int, Matrix, Matrix]], rows: int) -> tuple[Matrix, Matrix]:
    """Return the largest of each row, and Σ exp(value - largest), from those of its parts."""
    import numpy as np

    largest, total = np.full(rows, -np.inf), np.zeros(rows)
    for first, maxima, _ in parts:
        here = slice(first, first + len(maxima))
        largest[here] = np.maximum(largest[here], maxima)
    for first, maxima, sums in parts:
        here = slice(first, first + len(maxima))
        total[here] += sums * np.exp(maxima - largest[here])
    return largest, total


def _divergences(x: Chunk, found: Partition) -> tuple[int, Matrix]:
    """Return the first row of a block, and Σ p·log(p/q) - (p - q) over each row's part in it.

    Over whole rows p and q have equal sums: Σ(p - q) is 0. But so no term is negative and none cancels: for siblings
    Σ p·log(p/q) loses the digits that |p - q|/p has less than 1.
    """
    assert x.base is not None
    rows, changes = _rows(x.signature), subtract(x, 0, x.scratch(0))
    first, _ = rows.covered(x.start, changes.numel())
    if _close(x, changes):
        return first, rows.sums(_small_terms(x, rows, found, changes), x.start)
    base = x.base.double()
    q = (base - rows.spread(found.base, x.start, base)).exp_().add_(_FLOOR)
    p = (x.models[0].double() - rows.spread(found.base + found.more, x.start, base)).exp_().add_(_FLOOR)
    apart = p - q
    return first, rows.sums((apart / q).log1p_().mul_(p).sub_(apart), x.start)


def _small_terms(x: Chunk, rows: Lines, found: Partition, changes: Tensor) -> Tensor:
    """Return q·((1 + u)·log(1 + u) - u), u = (p - q)/q, of small changes; `changes` is used up."""
    import torch

    assert x.base is not None
    q = rows.less(x.base, found.base, x.start, x.scratch(1)).exp_()
    u = rows.less(changes, found.more, x.start, changes).expm1_().mul_(q).div_(q.add_(_FLOOR))
    series = x.scratch(2).fill_(_SERIES[-1])
    for term in _SERIES[-2::-1]:
        torch.addcmul(torch.tensor(term, device=u.device), series, u, out=series)
    return series.mul_(u).mul_(u).mul_(q)


def _scaled(parts: list[tuple[int, Matrix]], rows: int) -> Matrix:
    """Return each row's divergence, times the power of 2 that brings the largest to 1: only their ratios matter."""
    import numpy as np

    total = np.zeros(rows)
    for first, sums in parts:
        total[first : first + len(sums)] += sums
    total = np.maximum(total, 0.0)
    _, exponent = np.frexp(total.max(initial=0.0))
    return np.asarray(np.ldexp(total, -exponent))


def _scores(x: Chunk, divergence: Matrix) -> Tensor:
    """Return |θ - θ0|·D in scratch buffer 0."""
    scores = subtract(x, 0, x.scratch(0)).abs_()
    return scores.mul_(_rows(x.signature).spread(divergence, x.start, scores))


def _counts(x: Chunk, found: Search) -> dict[Bracket, Counted]:
    """Return what a block's scores say of each bracket that is looked into."""
    from surgery.math.select import Bracket, count

    scores = _scores(x, found.divergence)
    return {known: count(scores, known) for known in set(found.quartiles) if isinstance(known, Bracket)}


def _refined(counted: dict[Bracket, Counted], found: Search, numel: int) -> tuple[Bracket | Threshold, ...]:
    """Return the three quartiles, or smaller brackets of them."""
    from surgery.math.select import Bracket, refine

    return tuple(
        refine(counted[known], known, numel, numel - quarter * (numel - 1) // 4)
        if isinstance(known, Bracket)
        else known
        for quarter, known in zip((1, 2, 3), found.quartiles, strict=True)
    )


def _threshold(found: Search) -> float:
    """Return the smallest float32 that is at least median + 1.5·(q3 - q1)."""
    import numpy as np

    from surgery.math.select import Threshold

    lower, median, upper = (known.value for known in found.quartiles if isinstance(known, Threshold))
    exact = median + 1.5 * (upper - lower)
    rounded = np.float32(exact)
    return float(rounded if float(rounded) >= exact else np.nextafter(rounded, np.float32(np.inf)))
