"""Changes as entries of a sparse matrix: what delta.sparse stores and reads back.

Row r has the entries starts[r] to starts[r + 1], each a column and a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from surgery.checkpoint.base import Checkpoint
from surgery.errors import CheckpointError
from surgery.math.convert import torch_dtype
from surgery.math.patterns import device_patterns, patterns_of
from surgery.math.patterns import largest as largest_pattern
from surgery.math.reduce import squared_norm
from surgery.math.stretch import stretch
from surgery.notes import note_energy
from surgery.ops import Chunk, Part
from surgery.tensors import TensorSpec
from surgery_delta._checks import checks
from surgery_delta._codec import Entries
from surgery_delta.sparse import Sparse, counts, parts


def coded(x: Chunk, p: Sparse) -> Mapping[str, Tensor]:
    """Return the stored tensors of a whole tensor."""
    assert x.base is not None
    spec, (matrices, count) = x.signature.first, counts(x.signature, p.density)
    base = x.base.reshape(spec.shape[0], -1)
    delta = (x.models[0].reshape(base.shape) - base).to(torch.float32)
    places = torch.cat(
        [largest(matrix, count) + i * matrix.numel() for i, matrix in enumerate(delta.view(matrices, -1))]
    )
    *entries, check = parts(x.signature, p)
    kept = delta.view(-1)[places]
    note_energy(x, squared_norm(kept), squared_norm(delta.view(-1)))
    return {**as_entries(kept, places, spec, entries), check.spec.name: checks(base)}


def as_entries(
    kept: Tensor, places: Tensor, spec: TensorSpec, entries: Sequence[Part]
) -> Mapping[str, Tensor]:
    """Return the values, columns and starts of numbers at flat, ascending places of a tensor."""
    values, columns, starts = (entry.spec for entry in entries)
    rows = torch.bincount(places // spec.row, minlength=spec.shape[0]).cumsum(0)
    return {
        values.name: kept,
        columns.name: (places % spec.row).to(torch_dtype(columns.dtype)),
        starts.name: torch.cat([rows.new_zeros(1), rows]).to(torch_dtype(starts.dtype)),
    }


def largest(flat: Tensor, count: int) -> Tensor:
    """Return where the `count` largest |x| of a vector are, in order; of equal ones those that come first.

    NaN is larger than any number, so that there are always `count`.
    """
    magnitudes = device_patterns(flat)
    threshold = largest_pattern(patterns_of(flat), count)
    kept = magnitudes > threshold
    equal = (magnitudes == threshold).nonzero().squeeze(1)
    kept[equal[: count - int(kept.sum())]] = True
    return kept.nonzero().squeeze(1)


def decoded(entries: Entries, source: Checkpoint, first: int, last: int) -> Tensor:
    """Return some rows, zero where nothing is stored."""
    starts = stretch(source, entries.starts, first, last - first + 1).to(torch.int64)
    begin, end, lengths = int(starts[0]), int(starts[-1]), starts.diff()
    if not 0 <= begin <= end <= entries.values.numel or bool((lengths < 0).any()):
        raise _damaged(entries, source, entries.starts)
    columns = stretch(source, entries.columns, begin, end - begin).to(torch.int64)
    if bool(((columns < 0) | (columns >= entries.spec.row)).any()):
        raise _damaged(entries, source, entries.columns)
    rows = torch.repeat_interleave(torch.arange(last - first), lengths)
    delta = torch.zeros(last - first, entries.spec.row)
    delta[rows, columns] = stretch(source, entries.values, begin, end - begin).to(torch.float32)
    return delta


def _damaged(entries: Entries, source: Checkpoint, part: TensorSpec) -> CheckpointError:
    what = f"{part.name} points outside of {entries.spec.shape}"
    return CheckpointError(f"{source.location}: {what}; the file is damaged")
