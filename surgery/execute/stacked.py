"""Rows of several nodes in any order: read stretch by stretch, decoded together, or copied as bytes.

What is in files is read row by row at worst: 128,256 rows of 8 KiB take a third of a second that way (measured). What
is computed is computed stretch by stretch by an evaluator of its own, whose buffers are used again for each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from surgery.execute.finite import nonfinite
from surgery.math.convert import decode
from surgery.math.reduce import nan_free
from surgery.plan.nodes import Source, Stacked, below_rows
from surgery.tensors import DTYPES, nbytes

if TYPE_CHECKING:
    from surgery.execute.arena import Staging
    from surgery.execute.evaluate import Evaluator
    from surgery.execute.held import Held
    from surgery.plan.nodes import Node

Runs = list[tuple[int, int, int]]  # (place in the result, first element of the part, elements)


def stacked(
    work: Evaluator, node: Stacked, start: int, stop: int, held: Held, dtype: torch.dtype
) -> torch.Tensor:
    """Return elements start to stop, flat, in the compute dtype."""
    out = work.arena.take(stop - start, dtype)
    for part, runs in _by_part(node, start, stop).items():
        source, skipped = below_rows(node.nodes[part])
        if isinstance(source, Source):
            _load(work, source, skipped, runs, out)
        else:
            _compute(work, node.nodes[part], runs, held, out)
    return out


def _by_part(node: Stacked, start: int, stop: int) -> dict[int, Runs]:
    found: dict[int, Runs] = {}
    at = 0
    for part, first, numel in node.stretches.elements(node.spec.row, start, stop):
        found.setdefault(part, []).append((at, first, numel))
        at += numel
    return found


def _load(work: Evaluator, source: Source, skipped: int, runs: Runs, out: torch.Tensor) -> None:
    """Put stretches of a tensor in a file into their places."""
    lengths = [numel for _, _, numel in runs]
    staging = work.arena.staging(nbytes(sum(lengths), source.spec.dtype))
    work.read_runs(source, [first + skipped for _, first, _ in runs], lengths, staging.memory)
    values = out if len(runs) == 1 and lengths[0] == len(out) else work.arena.take(sum(lengths), out.dtype)
    if work.place.stream is None:
        values.copy_(staging.typed(source.spec.dtype))
    else:
        decode(work.place.to_device(staging.raw, work.arena), source.spec.dtype, values)
    if work.policy == "zero":
        torch.nan_to_num_(values, nan=0.0, posinf=0.0, neginf=0.0)
    elif work.policy == "error" and not nan_free(values):
        raise nonfinite(work, source)
    if values is not out:
        for (at, _, numel), run in zip(runs, torch.split(values, lengths), strict=True):
            out[at : at + numel] = run


def _compute(work: Evaluator, node: Node, runs: Runs, held: Held, out: torch.Tensor) -> None:
    """Put stretches of what an op computes into their places."""
    below = work.below()
    before = below.bytes_read
    for at, first, numel in runs:
        below.begin()
        out[at : at + numel] = below.aligned(node, first, first + numel, held, out.dtype)
        below.place.finish()
    work.bytes_read += below.bytes_read - before


def copies(node: Stacked, dtype: str) -> bool:
    """Return whether all rows are stored in files as they are to be written."""
    below = [below_rows(child)[0] for child in node.nodes]
    return all(isinstance(source, Source) and source.spec.dtype == dtype for source in below)


def copied(work: Evaluator, node: Stacked, at: int, size: int) -> Staging:
    """Return stored bytes of rows that are in files as they are to be written, from byte `at` on."""
    bits = DTYPES[node.spec.dtype].bits
    staging = work.arena.staging(size)
    done = 0
    for part, first, numel in node.stretches.elements(node.spec.row, at * 8 // bits, (at + size) * 8 // bits):
        source, skipped = below_rows(node.nodes[part])
        assert isinstance(source, Source)
        length = numel * bits // 8
        start = (first + skipped) * bits // 8
        source.checkpoint.read_into(source.spec.name, start, staging.memory[done : done + length])
        done += length
    work.bytes_read += size
    return staging
