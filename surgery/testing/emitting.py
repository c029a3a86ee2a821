"""Runs an op that makes several tensors of one, on tensors in memory, the plainest way that fulfils the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from surgery.errors import OpError, PluginError
from surgery.math.convert import torch_dtype
from surgery.ops import Op, Part, Reduce, Split
from surgery.tensors import Role
from surgery.testing import runner
from surgery.testing.chunk import MemoryChunk, cut, reshaped, whole_shape


def run_emitting_op(
    op: Op,
    params: Any = None,
    models: runner.Models = (),
    base: Tensor | None = None,
    *,
    name: str = "w",
    seed: int = 0,
    rows: int | None = None,
    role: Role | None = None,
    statistics: Mapping[str, Tensor] | None = None,
    notes: dict[str, float] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors that `op` makes of one, by name, in the dtypes that it declares.

    `rows` is how many rows it sees at a time, rounded up to what its parts allow; None for all. What the op notes is
    added to `notes`. Raises OpError where the op's `check` finds a fault, PluginError where it breaks the contract.
    """
    assert op.emits is not None, f"op `{op.name}` emits nothing; use run_op"
    tensors, own = runner._in_order(op, models, None)
    given = runner.concrete(op.params, params)
    signature = runner.signature_of(op, tensors, base, own, name=name, role=role)
    wrong = op.check(signature, given) if op.check else None
    if wrong:
        raise OpError(f"{name}: {wrong}")
    parts = list(op.emits(signature, given))
    whole = runner._chunk(op, signature, tensors, base, seed, statistics=statistics, noted=notes)
    results = _results(op, given, whole, parts, rows)
    runner._require_untouched(whole, tensors, base, {})
    return {part.spec.name: _joined(op, part, results) for part in parts}


def _results(
    op: Op, params: Any, whole: MemoryChunk, parts: Sequence[Part], rows: int | None
) -> list[Mapping[str, Tensor]]:
    """Return what the op returns for consecutive rows."""
    split = op.split_of(params)
    if split is Split.TENSOR:
        return [op.implementation(whole, params)]
    call = op.implementation
    if split is Split.REDUCE:
        found = runner._gather(op, params, [reshaped(whole, (-1,))])
        runner.note_found(whole, params, found)
        call = partial(_applied, op.implementation, found)
    matrix = reshaped(whole, (whole_shape(whole)[0], -1))
    step = math.lcm(*(part.rows for part in parts if part.rows), 1)
    size = len(matrix.like) if rows is None else -(-rows // step) * step
    starts = range(0, len(matrix.like), max(size, 1))
    return [call(cut(matrix, at, min(at + size, len(matrix.like))), params) for at in starts]


def _applied(implementation: Reduce, found: Any, x: MemoryChunk, params: Any) -> Any:
    return implementation.apply(x, params, found)


def _joined(op: Op, part: Part, results: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Put a tensor together out of what came for consecutive rows, in its stored dtype."""
    pieces = [result[part.spec.name] for result in results if part.spec.name in result]
    if part.rows == 0 and len(pieces) != 1:
        raise PluginError(
            f"op `{op.name}`: {part.spec.name} came {len(pieces)} times; return it with the first rows"
        )
    value = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    stored = torch_dtype(part.spec.dtype)
    if tuple(value.shape) != part.spec.shape:
        raise PluginError(
            f"op `{op.name}`: {part.spec.name} as declared: got {tuple(value.shape)} for {part.spec.shape}"
        )
    if value.dtype != stored and not (value.dtype.is_floating_point and stored.is_floating_point):
        raise PluginError(f"op `{op.name}`: {part.spec.name} as declared: got {value.dtype} for {stored}")
    return value.clone() if value.dtype == stored else runner._rounded(value, part.spec.dtype)
