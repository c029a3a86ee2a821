"""Which weights stay, found exactly: the largest of a row, of a group of neighbours, of a tensor, of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from surgery.ops import SAMPLE_RUN, SAMPLE_RUNS, Chunk, Reduce, Scan, Signature, Split
from surgery_prune._caps import Digits, digit_counts, next_digit
from surgery_prune._sparsity import Amount, Sparsity, compared, pruned, split_of

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.math.select import Bracket, Threshold

_SAMPLE: Final = SAMPLE_RUNS * SAMPLE_RUN


@dataclass(frozen=True, slots=True)
class Search:
    """What is known so far: the common threshold, and, if tensors share it, those of tensors that it would empty.

    `caps` is None until the tensors that need one are known.
    """

    common: Bracket | Threshold
    caps: dict[str, Digits] | None = None


class Selecting(Reduce):
    """Finds thresholds while streaming; rows and groups of neighbours are settled where they are seen."""

    def scan(self, signature: Signature, p: Sparsity, found: Search | None, done: int) -> Scan | None:
        """Read a sample of a large tensor, then all blocks until the thresholds are known."""
        from surgery.math.select import Bracket

        if found is None:
            if _kept(signature, p) == 0:
                return None
            return Scan.SAMPLE if _sampled(signature, p) else Scan.ALL
        if isinstance(found.common, Bracket) or found.caps is None:
            return Scan.ALL
        return Scan.ALL if any(not cap.settled for cap in found.caps.values()) else None

    def gather(self, x: Chunk, p: Sparsity, found: Search | None) -> Any:
        """Return what a block (or the sample) says of the threshold that is sought."""
        from surgery.math.select import FULL, Bracket, count

        weights = x.models[0]
        if found is None:
            return [weights.clone()] if _sampled(x.signature, p) else count(weights, FULL)
        if isinstance(found.common, Bracket):
            return count(weights, found.common)
        name = x.signature.name
        if found.caps is None:
            return {name: (weights.numel() - int(_keep(weights, found.common).sum()), weights.numel())}
        cap = found.caps.get(name)
        return {} if cap is None or cap.settled else {name: digit_counts(weights, cap)}

    def fold(self, total: Any, part: Any) -> Any:
        """Add a block's part to the total: counts, by tensor where they are kept apart."""
        if isinstance(total, list):
            return total + part
        if not isinstance(total, dict):
            return total.add(part)
        for name, counts in part.items():
            total[name] = _added(total[name], counts) if name in total else counts
        return total

    def solve(self, signature: Signature, p: Sparsity, total: Any, found: Search | None) -> Search:
        """Return the thresholds, or where the next pass looks for them."""
        import torch

        from surgery.math.select import FULL, Bracket, bracket_from_sample, refine

        kept = _kept(signature, p)
        if isinstance(total, list):
            return Search(bracket_from_sample(torch.cat(total), signature.numel, kept), {})
        known = FULL if found is None else found.common
        if isinstance(known, Bracket):
            capped = p.joins and p.cap < 1
            return Search(refine(total, known, signature.numel, kept), None if capped else {})
        assert found is not None
        if found.caps is None:
            return replace(found, caps=_emptied(total, p.cap))
        caps = {
            name: next_digit(cap, total[name]) if name in total else cap for name, cap in found.caps.items()
        }
        return replace(found, caps=caps)

    def kept(self, x: Chunk, p: Sparsity, found: Search | None) -> Tensor:
        """Return where the weights stay, as bool in the shape of the range."""
        import torch

        weights = x.models[0]
        if split_of(p) is Split.ROW:
            return largest_of_each(weights, x.signature, p)
        if found is None:
            return torch.zeros_like(weights, dtype=torch.bool)
        cap = (found.caps or {}).get(x.signature.name)
        return _keep(weights, found.common) if cap is None else _keep_from(weights, cap.low)


def _kept(signature: Signature, p: Sparsity) -> int:
    return signature.numel - pruned(p.share, signature.numel)


def _sampled(signature: Signature, p: Sparsity) -> bool:
    return p.scope == "tensor" and signature.numel > _SAMPLE


def _added(total: Any, counts: Any) -> Any:
    """Add counts of one tensor: pairs, or histograms."""
    if isinstance(counts, tuple):
        return total[0] + counts[0], total[1] + counts[1]
    return total + counts


def _emptied(below: dict[str, tuple[int, int]], cap: float) -> dict[str, Digits]:
    """Return, for tensors that would lose more than the cap, what is sought instead."""
    most = {name: pruned(cap, numel) for name, (_, numel) in below.items()}
    return {
        name: Digits(0, numel - most[name])
        for name, (lost, numel) in below.items()
        if lost > most[name] and numel > most[name]
    }


def _keep(weights: Tensor, threshold: Any) -> Tensor:
    from surgery.math.select import keep

    return keep(weights, threshold)


def _keep_from(weights: Tensor, bits: int) -> Tensor:
    """Return where the magnitude's pattern is at least `bits`."""
    from surgery.math.patterns import value_of

    return _keep(weights, value_of(bits))


def largest_of_each(weights: Tensor, signature: Signature, p: Amount) -> Tensor:
    """Return where the largest |x| of every row, or of every group of neighbours, are."""
    from surgery_prune._rows import largest_of_rows

    length = compared(signature)
    kept, length = p.group or (length - pruned(p.share, length), length)
    return largest_of_rows(weights.reshape(-1, length), kept).view(weights.shape)
