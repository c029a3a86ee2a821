"""Holds ops to their contract: what they raise, and what they return, is told with step, tensor and shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from surgery.errors import OpError, ResourceError, SurgeryError
from surgery.execute.chunk import EngineChunk
from surgery.plan.nodes import Apply, GroupCall

_SHOWN = 4  # tensors of a group that a message names


def attempt(node: Apply | GroupCall, function: Callable[..., Any], *args: Any) -> Any:
    """Call a part of an op; what it raises becomes an error that names step, tensor and shapes."""
    try:
        return function(*args)
    except SurgeryError:
        raise
    except Exception as error:
        raise _failed(node, error) from error


def _failed(node: Apply | GroupCall, error: Exception) -> SurgeryError:
    where = f"step {node.step}: `{node.op.name}`"
    # only accelerators have an exception of their own in torch
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        advice = "free some memory, or try `--device cpu` or fewer `--threads`"
        return ResourceError(f"{where} ran out of memory on {_shapes(node)}; {advice}")
    what = f"{type(error).__name__}: {error}"
    return OpError(f"{where} failed on {_shapes(node)}: {what}; see its parameters")


def require_floats(node: Apply | GroupCall, result: Any, x: EngineChunk) -> None:
    """Refuse a result that is not numbers of the compute dtype, or float64, where the inputs are."""
    if not isinstance(result, torch.Tensor):
        raise wrong_result(node, f"returned {type(result).__name__}, not a tensor,")
    if result.dtype not in (x.dtype, torch.float64):
        raise wrong_result(node, f"returned {_name(result.dtype)}, not {_name(x.dtype)},")
    if result.device != x.device:
        raise wrong_result(node, f"returned a tensor on {result.device}, not {x.device},")


def wrong_result(node: Apply | GroupCall, what: str) -> OpError:
    """Return the error that an op broke its contract."""
    return OpError(f"step {node.step}: `{node.op.name}` {what} on {_shapes(node)}; mend the plugin")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shapes(node: Apply | GroupCall) -> str:
    if isinstance(node, GroupCall):
        return ", ".join(
            f"{name} {member.spec.shape}" for name, member in list(node.members.items())[:_SHOWN]
        )
    return f"{node.signature.name} {node.signature.first.shape}"
