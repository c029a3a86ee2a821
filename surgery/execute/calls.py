"""Calls of ops, held to their contract: what they return is looked at, and whether they wrote to their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from surgery.errors import OpError
from surgery.execute.chunk import EngineChunk
from surgery.execute.contract import attempt, require_floats, wrong_result
from surgery.execute.finite import checked
from surgery.plan.nodes import Apply, GroupCall

if TYPE_CHECKING:
    from surgery.execute.evaluate import Evaluator


def on_range(
    work: Evaluator,
    node: Apply,
    x: EngineChunk,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    looked_at: bool = False,
    deferred: bool = False,
) -> torch.Tensor:
    """Return a function's result on a range, flat, after holding it to the contract.

    `looked_at`: a gather pass has searched the inputs for NaN and Inf; `deferred`: whoever stores the result
    searches it.
    """
    before = [tensor._version for tensor in x.inputs]
    result: torch.Tensor = attempt(node, function, *args)
    if [tensor._version for tensor in x.inputs] != before:
        raise _writes_to_inputs(node)
    flat = len(x.shape) == 1
    if result is None or result is not x.made:  # the engine's own buffer is as it should be
        require_floats(node, result, x)
        if result.shape != x.shape:
            raise wrong_result(node, f"returned shape {tuple(result.shape)} for a range of {tuple(x.shape)}")
    if not deferred:
        checked(work, node, x, result, looked_at=looked_at)
    return result if flat else result.reshape(-1)


def invoke(node: Apply | GroupCall, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call an op on a chunk, or a group's on several; one that writes to its inputs is refused.

    Inputs may be shared with other ops. torch counts the writes to a tensor, and that is what is looked at, here
    and in `on_range`.
    """
    chunks = list(args[0].values()) if isinstance(node, GroupCall) else [args[0]]
    before = [chunk.writes() for chunk in chunks]
    result = attempt(node, function, *args)
    if [chunk.writes() for chunk in chunks] != before:
        raise _writes_to_inputs(node)
    return result


def _writes_to_inputs(node: Apply | GroupCall) -> OpError:
    return wrong_result(node, "writes to its inputs instead of `x.out`")
