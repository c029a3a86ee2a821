"""merge.arcee_fusion: a model's weights where its changes stand out, the base's elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.ops import BASE, Chunk, NoParams, Reduce, Scan, Signature, op
from surgery_merge._common import lacks_base, subtract

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.count import Bracket, Counted
    from surgery.math.gram import Matrix
    from surgery.math.lines import Lines
    from surgery.math.select import Threshold

_FLOOR = 1e-8  # added to every probability


@dataclass(frozen=True, slots=True)
class Partition:
    """log Σ exp of each row of the model and of the base."""

    model: Matrix
    base: Matrix


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
    buffers=1,
    cite="Goddard et al. 2024, Arcee's MergeKit, arXiv:2403.13257",
)
class ArceeFusionOp(Reduce):
    """Take the model's weight where |θ - θ0|·D is at least median + 1.5·(q3 - q1) of all, else the base's.

    D is the divergence KL(softmax(θ) ‖ softmax(θ0)) of the row (output of a Linear; a vector is one row), with 1e-8
    added to both probabilities, in float64. Quartiles are order statistics ⌊q·(n - 1)⌋ of a tensor's n scores, exact
    for any n. A product of a vendor; no paper says why. It reads its inputs four or five times: row sums,
    divergences, the quartiles in one pass or two, the result.
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
            return Partition(*(_log_sums([part[side] for part in total], rows) for side in (0, 1)))
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


def _row_sums(x: Chunk) -> list[tuple[int, Matrix, Matrix]]:
    """Return for model and base the first row of a block, each row's maximum, and Σ exp(x - maximum)."""
    import numpy as np

    assert x.base is not None
    rows, size = _rows(x.signature), x.base.numel()
    (first, _), offsets = rows.covered(x.start, size), rows.offsets(x.start, size)
    lengths = np.diff(offsets, append=size)
    sums = []
    for tensor in (x.models[0], x.base):
        values = tensor.double().cpu().numpy()
        largest = np.maximum.reduceat(values, offsets)
        powers = np.exp(values - np.repeat(largest, lengths))
        sums.append((first, largest, np.add.reduceat(powers, offsets)))
    return sums


def _log_sums(parts: list[tuple[int, Matrix, Matrix]], rows: int) -> Matrix:
    """Return log Σ exp of each row from the sums over its parts."""
    import numpy as np

    largest, total = np.full(rows, -np.inf), np.zeros(rows)
    for first, maxima, _ in parts:
        here = slice(first, first + len(maxima))
        largest[here] = np.maximum(largest[here], maxima)
    for first, maxima, sums in parts:
        here = slice(first, first + len(maxima))
        total[here] += sums * np.exp(maxima - largest[here])
    return largest + np.log(total, out=np.zeros(rows), where=total != 0)


def _divergences(x: Chunk, found: Partition) -> tuple[int, Matrix]:
    """Return the first row of a block, and Σ p·log(p/q) - (p - q) over each row's part in it.

    Over whole rows p and q have equal sums: Σ(p - q) is 0. But so no term is negative and none cancels: for siblings
    Σ p·log(p/q) loses the digits that |p - q|/p has less than 1.
    """
    import numpy as np
    import torch

    assert x.base is not None
    rows, size = _rows(x.signature), x.base.numel()
    p, q = (
        (wide - rows.spread(log_sums, x.start, wide)).exp_().add_(_FLOOR)
        for wide, log_sums in ((x.models[0].double(), found.model), (x.base.double(), found.base))
    )
    apart = p - q
    terms = torch.log1p(apart / q).mul_(p).sub_(apart).cpu().numpy()
    first, _ = rows.covered(x.start, size)
    return first, np.add.reduceat(terms, rows.offsets(x.start, size))


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
