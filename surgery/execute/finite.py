"""NaN, Inf and numbers too large to store: looked for once, where the policy says so, and told with their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from surgery.errors import CheckpointError, OpError
from surgery.execute.held import Held
from surgery.math.convert import overflow
from surgery.math.reduce import first_nonfinite, nan_free
from surgery.ops import BLOCK
from surgery.plan.nodes import Apply, Node, Source, below_rows, inputs_of
from surgery.tensors import DTYPES, TensorSpec

if TYPE_CHECKING:
    from surgery.execute.chunk import EngineChunk
    from surgery.execute.evaluate import Evaluator


def source_of(node: Node) -> Source | None:
    """Return the tensor in a file that a node is, or is rows of."""
    below, _ = below_rows(node)
    return below if isinstance(below, Source) else None


def finite(work: Evaluator, source: Source, value: torch.Tensor) -> torch.Tensor:
    """Return a range of a tensor in a file; CheckpointError if it holds NaN or Inf."""
    if not nan_free(value):
        raise nonfinite(work, source)
    return value


def check_inputs(work: Evaluator, node: Apply, x: EngineChunk) -> None:
    """Refuse NaN and Inf that an op is given from files, where the policy says so."""
    if work.policy != "error":
        return
    for child, value in zip(inputs_of(node), x.inputs, strict=True):
        source = source_of(child)
        if source is not None and not nan_free(value):
            raise nonfinite(work, source)


def checked(
    work: Evaluator, node: Apply, x: EngineChunk, result: torch.Tensor, *, looked_at: bool = False
) -> None:
    """Refuse NaN and Inf where the policy says so; each element is looked at once."""
    if work.policy == "keep":
        return
    if not (node.op.propagates or looked_at):
        check_inputs(work, node, x)
    if not nan_free(result):
        check_inputs(work, node, x)
        _, first = first_nonfinite(result)
        raise OpError(
            f"step {node.step}: `{node.op.name}` makes NaN or Inf of finite numbers in {node.spec.name}, "
            f"at element {x.start + first}; check its parameters"
        )


def nonfinite(work: Evaluator, source: Source) -> CheckpointError:
    """Return the error that counts a tensor's NaN and Inf and tells the first; reads the tensor once more."""
    total, first = 0, -1
    for start in range(0, source.spec.numel, BLOCK):
        work.begin()
        stop = min(start + BLOCK, source.spec.numel)
        count, index = first_nonfinite(work.value(source, start, stop, Held(), torch.float64))
        first = start + index if count and first < 0 else first
        total += count
    extent = source.checkpoint.extent(source.spec.name)
    return CheckpointError(
        f"{extent.file if extent else source.checkpoint.location}: {source.spec.name} holds {total} NaN or Inf, "
        f"first at element {first}; mend the file or set `on_nonfinite: zero` or `keep`"
    )


def refuse_overflow(
    work: Evaluator, value: torch.Tensor, stored: torch.Tensor, spec: TensorSpec, start: int
) -> None:
    """Refuse finite numbers that became infinite when they were stored, unless the policy keeps them."""
    found = overflow(value, stored) if work.policy != "keep" else None
    if found:
        raise OpError(
            f"{spec.name}: {float(value[found.first]):.6g} at element {start + found.first} is "
            f"too large for {DTYPES[spec.dtype].torch}; write `output.dtype: bfloat16` or `float32`"
        )
